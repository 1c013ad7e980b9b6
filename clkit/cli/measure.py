"""`clkit measure`: the matrix of models that something else trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clkit.cli import AcceptChanges, Overrides, RecipeName, refuse_contradictions
from clkit.cli.matrix import matrix


def measure(
    recipe: RecipeName,
    overrides: Overrides = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            help="Folder of a trained model or of a LoRA adapter. One per task, in their order: the model after that "
            "task; or only one: the last row is measured.",
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME-SEED-measured]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: with what was not finished, or with tasks added at the end.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    accept_changes: AcceptChanges = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrix and metrics as JSON.")] = False,
) -> None:
    """Test models that something else trained, a row of the matrix each, without training. The recipe says on what.

    Example: clkit measure my.yaml --model ckpt/after-a --model ckpt/after-b
    """
    from clkit.errors import UsageError
    from clkit.recipe.recipe import Recipe
    from clkit.report.console import quiet_libraries, stderr

    refuse_contradictions(resume=resume, overwrite=overwrite, accept_changes=accept_changes)
    if not models:
        raise UsageError("--model: name the folder of a model, or one for each task")
    loaded = Recipe.load(recipe, overrides or [])
    quiet_libraries()
    from clkit.engine.measure import measure as measure_models
    from clkit.report.progress import progress

    folder = measure_models(
        loaded,
        models,
        run,
        overwrite=overwrite,
        resume=resume,
        accept_changes=accept_changes,
        listener=progress(stderr()),
    )
    matrix([folder.path], as_json=as_json)
