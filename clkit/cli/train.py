"""`clkit train`: teach a model the tasks of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clkit.cli import AcceptChanges, Overrides, RecipeName, refuse_contradictions
from clkit.cli.matrix import matrix


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME-SEED]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run of the recipe stopped.")] = False,
    accept_changes: AcceptChanges = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load everything, show the plan, train nothing.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the recipe in miniature on the embedded model and sample.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrix and metrics, or the plan, as JSON.")] = False,
) -> None:
    """Teach a model one task after another, and print what it knows after each.

    Example: clkit train t5_order1 strategies.migu.threshold=0.5 --run runs/t05
    """
    import json
    from dataclasses import asdict

    from clkit.recipe.inputs import paths_read
    from clkit.recipe.loading import files_read
    from clkit.recipe.recipe import Recipe
    from clkit.recipe.smoke import smoke_recipe
    from clkit.report.console import make_console, quiet_libraries, stderr
    from clkit.run.folder import RunFolder

    refuse_contradictions(resume=resume, overwrite=overwrite, accept_changes=accept_changes)
    loaded = Recipe.load(recipe, overrides or [])
    loaded = smoke_recipe(loaded) if smoke else loaded
    if not resume:  # before libraries are loaded for seconds
        read = [*files_read(recipe), *paths_read(loaded)]
        RunFolder.check_free(run or loaded.run_path, overwrite=overwrite, reads=read)

    quiet_libraries()
    from clkit.engine.prepare import prepare
    from clkit.engine.sequence import dry_run as dry_resume
    from clkit.engine.sequence import train as run_sequence
    from clkit.processes import processes
    from clkit.report.progress import print_plan, progress

    listener = progress(stderr())
    if dry_run:
        if resume:
            plan = dry_resume(loaded, run or loaded.run_path, accept_changes=accept_changes, listener=listener)
        else:
            plan = prepare(loaded).plan()
        if as_json:
            typer.echo(json.dumps(asdict(plan), indent=2))
        else:
            print_plan(make_console(), plan)
        return
    options = {"resume": resume, "overwrite": overwrite, "accept_changes": accept_changes}
    folder = run_sequence(loaded, run, **options, listener=listener)
    if processes().is_main_process:
        matrix([folder.path], as_json=as_json)
