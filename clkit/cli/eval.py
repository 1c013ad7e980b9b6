"""`clkit eval`: test a saved stage of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clkit.cli import AcceptChanges, NewestRun
from clkit.cli.matrix import matrix

if TYPE_CHECKING:
    from clkit.results.scores import Tested


def evaluate(
    run: NewestRun = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: evaluation.answer=rank"),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Task name or number, or `zero-shot`.  [default: last]")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Test on this task only; may be repeated.")] = None,
    tasks_of: Annotated[str | None, typer.Option(help="Test on the tasks of this recipe instead of the run's.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the predictions to this JSONL file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --save names.")] = False,
    fill: Annotated[
        bool, typer.Option("--fill", help="Measure what the matrix lacks and saved stages still tell, and keep it.")
    ] = False,
    accept_changes: AcceptChanges = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Test the saved model although the run has tested it so on the same data.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores as JSON.")] = False,
) -> None:
    """Test the model of a finished stage, on the run's tasks or on others.

    Example: clkit eval runs/quickstart-42 --stage 1 --task reviews evaluation.answer=rank
    """
    from clkit.errors import UsageError
    from clkit.recipe.inputs import paths_read
    from clkit.recipe.loading import keep_model, without_target
    from clkit.recipe.recipe import Recipe
    from clkit.report.console import quiet_libraries, stderr
    from clkit.run.atomic import write_jsonl
    from clkit.run.folder import RunFolder
    from clkit.run.layout import check_target

    run, overrides = without_target(run, overrides or [])
    keep_model(overrides, Recipe.model_fields)
    folder = RunFolder.open(run) if run is not None else RunFolder.newest()
    recipe = Recipe.load(tasks_of or folder.recipe_path, overrides) if tasks_of or overrides else None
    if fill and (recipe is not None or save is not None):
        raise UsageError(
            "--fill tests as the run does, and keeps scores in it: leave out changes, --tasks-of and --save"
        )
    if save is not None:  # before the model answers for an hour
        reads = [Path(tasks_of or folder.recipe_path), *paths_read(recipe or Recipe.load(folder.recipe_path))]
        check_target(save, "--save", replace=force, reads=reads)
    quiet_libraries()
    from clkit.engine.evaluate import evaluate as test_stage
    from clkit.engine.filling import fill as fill_matrix
    from clkit.report.progress import evaluation_progress

    with evaluation_progress(stderr()) as listener:
        if fill:
            fill_matrix(folder, stage=stage, tasks=task, accept_changes=accept_changes, listener=listener)
            matrix([folder.path], as_json=as_json)
            return
        tested = test_stage(
            folder, stage=stage, tasks=task, recipe=recipe, accept_changes=accept_changes, anew=anew, listener=listener
        )
    if save is not None:
        write_jsonl(save, (record for outcome in tested for record in outcome.records()))
    _show(tested, folder.path, stage or "last", as_json)


def _show(tested: list[Tested], run: Path, stage: str, as_json: bool) -> None:
    import json

    from clkit.report.console import make_console
    from clkit.report.tables import scores_table

    if as_json:
        scores = {outcome.task: {**outcome.scores, "examples": outcome.examples} for outcome in tested}
        typer.echo(json.dumps({"run": str(run), "stage": stage, "scores": scores}, indent=2))
    else:
        make_console().print(scores_table({outcome.task: (outcome.scores, outcome.examples) for outcome in tested}))
