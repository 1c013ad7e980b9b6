"""`clkit show`: a recipe as it is written, or with everything spelt out."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clkit.cli import RecipeName


def show(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe; they need --resolved."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Validate, and spell out what it extends and every default.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Show a recipe's file as it is, or with --resolved the whole recipe that will run.

    Example: clkit show t5_order2 --resolved strategies.migu.threshold=0.5
    """
    from clkit.errors import UsageError
    from clkit.recipe.loading import read_file, read_text
    from clkit.recipe.shipped import recipe_path
    from clkit.recipe.written import recipe_yaml
    from clkit.suites.planning import PlannedSuite, load_either

    if overrides and not resolved:
        raise UsageError(f"'{overrides[0]}' changes the recipe, but the file is shown as it is; add --resolved")
    if resolved:
        either = load_either(recipe, overrides or [])
        loaded = either.resolved() if isinstance(either, PlannedSuite) else either
        text = json.dumps(loaded.model_dump(), indent=2, ensure_ascii=False) if as_json else recipe_yaml(loaded)
    elif as_json:
        text = json.dumps(read_file(recipe_path(recipe)).plain(), indent=2, ensure_ascii=False)
    else:
        text = read_text(recipe_path(recipe))
    typer.echo(text.removesuffix("\n"))
