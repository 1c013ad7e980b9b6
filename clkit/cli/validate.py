"""`clkit validate`: whether a recipe can work, before anything is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clkit.cli import Overrides, RecipeName

if TYPE_CHECKING:
    from clkit.recipe.recipe import Recipe
    from clkit.suites.planning import PlannedSuite


def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check a recipe or suite: its keys and values, whether its strategies work together, whether its files are there.

    Lists every problem on a line of its own and exits with 2, or says what the recipe is.

    Example: clkit validate my.yaml tuning.method=lora
    """
    from clkit.errors import RecipeError, one_line
    from clkit.recipe.inputs import missing_inputs
    from clkit.report.console import quiet_what_loads
    from clkit.suites.planning import PlannedSuite, load_either

    quiet_what_loads()
    about: dict[str, Any] = {}
    try:
        loaded = load_either(recipe, overrides or [])
        if isinstance(loaded, PlannedSuite):
            problems, about = loaded.missing_inputs(), _about_suite(loaded)
        else:
            problems, about = missing_inputs(loaded), _about(loaded)
    except RecipeError as error:
        problems = error.problems
    if as_json:
        typer.echo(json.dumps({"valid": not problems, "problems": problems, **about}, indent=2, ensure_ascii=False))
    else:
        for line in problems or [f"{key}: {value}" for key, value in _as_text(about).items()]:
            typer.echo(one_line(line))
    if problems:
        raise typer.Exit(2)
    typer.echo("valid", err=True)


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "model": recipe.model.name,
        "tasks": [task.name for task in recipe.task_recipes()],
        "tuning": recipe.tuning.method,
        "strategies": [strategy.name for strategy in recipe.strategies],
    }


def _about_suite(planned: PlannedSuite) -> dict[str, Any]:
    validation = len(planned.validation_runs())  # by which rates are chosen
    return {
        "name": planned.name,
        "methods": [*planned.suite.methods],
        "runs": planned.number_of_runs,
        **({"validation_runs": validation} if validation else {}),
    }


def _as_text(about: dict[str, Any]) -> dict[str, str]:
    return {key: ", ".join(value) or "none" if isinstance(value, list) else str(value) for key, value in about.items()}
