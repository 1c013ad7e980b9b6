"""`clkit train`: teach a model the tasks of a recipe."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clkit.cli import AcceptChanges, Overrides, RecipeName, refuse_contradictions
from clkit.cli.matrix import matrix

if TYPE_CHECKING:
    from clkit.recipe.recipe import Recipe

PlannedFor = Annotated[str | None, typer.Option(help="With --dry-run: plan for such GPUs (1x24GB), without weights.")]


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME-SEED]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run of the recipe stopped.")] = False,
    accept_changes: AcceptChanges = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load everything, show the plan, train nothing.")] = False,
    device: PlannedFor = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the recipe in miniature on the embedded model and sample.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrix and metrics, or the plan, as JSON.")] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print every event as a line of JSON, and nothing else.")
    ] = False,
) -> None:
    """Teach a model one task after another, and print what it knows after each.

    Example: clkit train t5_order1 strategies.migu.threshold=0.5 --run runs/t05
    """

    from clkit.errors import UsageError
    from clkit.recipe.recipe import Recipe
    from clkit.recipe.smoke import smoke_recipe
    from clkit.report.console import quiet_libraries, stderr

    refuse_contradictions(resume=resume, overwrite=overwrite, accept_changes=accept_changes)
    if json_lines and (as_json or dry_run):
        raise UsageError("--json-lines is for what happens in a run; of a plan or a matrix, --json")
    if device is not None and not dry_run:
        raise UsageError("--device is for the plan; add --dry-run")
    loaded = Recipe.load(recipe, overrides or [])
    loaded = smoke_recipe(loaded) if smoke else loaded
    _check_place(run or loaded.run_path, recipe, loaded, resume=resume, overwrite=overwrite)

    quiet_libraries()
    if dry_run:
        _show_plan(loaded, run, device, resume=resume, accept_changes=accept_changes, as_json=as_json)
        return
    from clkit.engine.sequence import train as run_sequence
    from clkit.processes import processes
    from clkit.report.json_lines import JsonLines
    from clkit.report.progress import progress

    lines = JsonLines(_print_line) if json_lines else None
    options = {"resume": resume, "overwrite": overwrite, "accept_changes": accept_changes}
    folder = run_sequence(loaded, run, **options, listener=lines or progress(stderr()))
    if not processes().is_main_process:
        return
    if lines:
        metrics = {name: metric.value for name, metric in folder.read_matrix().metrics().items()}
        lines.tell("finished", run=str(folder.path), metrics=metrics)
    else:
        matrix([folder.path], as_json=as_json)


def _check_place(place: Path, source: str, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that the run cannot have, before libraries are loaded for seconds."""
    from clkit.recipe.inputs import paths_read
    from clkit.recipe.loading import files_read
    from clkit.run.place import check_begun, check_free

    if resume:
        check_begun(place)
    else:
        check_free(place, overwrite=overwrite, reads=[*files_read(source), *paths_read(recipe)])


def _print_line(line: str) -> None:
    with suppress(BrokenPipeError):  # who read along has left, and the run goes on
        print(line, end="", flush=True)


def _show_plan(
    recipe: Recipe, run: Path | None, named: str | None, *, resume: bool, accept_changes: bool, as_json: bool
) -> None:
    import json
    from dataclasses import asdict

    from clkit.engine.devices import Device
    from clkit.engine.prepare import prepare
    from clkit.engine.sequence import dry_run
    from clkit.report.console import make_console, stderr
    from clkit.report.plan import print_plan
    from clkit.report.progress import progress

    device = Device.parse(named) if named is not None else Device.of_this_machine()
    if resume:
        listener = progress(stderr())
        plan = dry_run(recipe, run or recipe.run_path, device, accept_changes=accept_changes, listener=listener)
    else:
        plan = prepare(recipe, shapes_only=named is not None).plan(device)
    if as_json:
        typer.echo(json.dumps(asdict(plan), indent=2))
    else:
        print_plan(make_console(), plan)
