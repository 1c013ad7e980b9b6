"""`clkit inspect-magnitudes`: which rows of a model's layers answer loudest, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clkit.cli import AcceptChanges
from clkit.run.layout import ZERO_SHOT

if TYPE_CHECKING:
    from clkit.engine.inspection import Magnitudes, Watching
    from clkit.recipe.recipe import Recipe
    from clkit.run.folder import RunFolder

#: What is written into the folder, beside the figures.
DATA, SUMMARY = "magnitudes.parquet", "magnitudes.json"
FIGURES = ("distribution", "distances", "stages")


class Format(StrEnum):
    """Of figures."""

    png = "png"
    svg = "svg"


def inspect_magnitudes(
    target: Annotated[
        str | None,
        typer.Argument(help="A run folder, or a recipe for its untrained model.  [default: newest run in runs/]"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: model.name=PATH")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Of a run: task name or number, or `zero-shot`; may be repeated.  [default: all kept]"),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Layers to watch: roles, names or patterns, separated by commas.")
    ] = "attention,feed_forward",
    depth: Annotated[
        str | None, typer.Option(help="Of these, the layers in these blocks: 0,2-4,last", show_default=False)
    ] = None,
    top: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of rows that counts as top (1 - T).")] = 0.3,
    examples: Annotated[int, typer.Option(min=1, help="Training examples of each task, drawn by the seed.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a batch: rows are chosen batch by batch too.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Folder for data and figures.  [default: RUN/inspect, or inspect/NAME]")
    ] = None,
    figures: Annotated[Format, typer.Option("--format", help="Of the figures.")] = Format.png,
    force: Annotated[bool, typer.Option("--force", help="Replace what was measured into that folder before.")] = False,
    accept_changes: AcceptChanges = False,
    all_layers: Annotated[bool, typer.Option("--all", help="List every layer, not one line per kind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure output magnitudes per task and layer: how far tasks share their top rows, and what stages change.

    Prints tables; saves every row's magnitude (Parquet), a summary (JSON) and figures.

    Example: clkit inspect-magnitudes runs/quickstart-42 --layers attention --depth 0,last
    """
    from clkit.errors import UsageError
    from clkit.models.depths import parse_depths
    from clkit.report.console import quiet_libraries
    from clkit.run.layout import INSPECT, check_target

    entries = [layer.strip() for layer in layers.split(",") if layer.strip()]
    if not entries:
        raise UsageError("--layers names no layer; give roles, names or patterns, such as --layers attention,wo")
    if depth is not None:
        parse_depths(depth)
    folder, recipe = _inspected(target, overrides or [], stage)
    destination = out or (folder.path / INSPECT if folder else Path(INSPECT, recipe.name))
    files = (DATA, SUMMARY, *(f"{name}.{figures}" for name in FIGURES))
    check_target(destination, "--out", replace=force, files=files, own=folder.path if folder else None)
    quiet_libraries()
    from clkit.engine.inspection import Watching

    saved = _stages(folder, stage, accept_changes=accept_changes) if folder else [[]]
    if folder and out is None and stage and len(saved) == 1:
        destination /= saved[0][-1].name if saved[0] else ZERO_SHOT
    measured = _measured(recipe, saved, Watching(entries, depth, examples, batch, top))
    _show(measured, destination, str(figures), every=all_layers, as_json=as_json)


def _stages(run: RunFolder, wanted: Sequence[str] | None, *, accept_changes: bool) -> list[list[Path]]:
    """The folders of the stages that each model went through: of those that are wanted, or of all that are kept."""
    from clkit.engine.evaluate import learned_stages
    from clkit.errors import ClkitError

    if wanted:
        found = [learned_stages(run, name, accept_changes=accept_changes) for name in dict.fromkeys(wanted)]
        return sorted(found, key=lambda folders: folders[-1].name if folders else "")
    found = []
    kept = [stage.folder.name for stage in run.stages() if stage.index > 0 and stage.model_kept]
    for name in (ZERO_SHOT, *kept):
        try:
            found.append(learned_stages(run, name, accept_changes=accept_changes))
        except ClkitError as error:
            if name != ZERO_SHOT or not kept:
                raise
            typer.echo(f"warning: {ZERO_SHOT} is left out: {error}", err=True)
    return found


def _measured(recipe: Recipe, stages: Sequence[Sequence[Path]], watching: Watching) -> Magnitudes:
    from clkit.engine.inspection import inspect_stages
    from clkit.recipe.inputs import load_tasks
    from clkit.report.console import stderr
    from clkit.report.progress import evaluation_progress

    tasks = load_tasks(recipe)
    with evaluation_progress(stderr()) as listener:
        return inspect_stages(recipe, tasks, stages, watching, listener)


def _show(measured: Magnitudes, destination: Path, figures: str, *, every: bool, as_json: bool) -> None:
    """Save data and figures, and print the summary."""
    import json

    from clkit.report.console import make_console, stderr
    from clkit.report.magnitude_data import summary, write_rows
    from clkit.report.magnitude_figures import save_figures
    from clkit.report.magnitudes import magnitude_tables
    from clkit.run.atomic import write_json

    found = summary(measured)
    destination.mkdir(parents=True, exist_ok=True)
    write_rows(measured, destination / DATA)
    write_json(destination / SUMMARY, found)
    drawn = save_figures(measured, found, destination, figures)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = make_console()
        for table in magnitude_tables(found, console.width, every=every):
            console.print(table)
    files = (destination / DATA, destination / SUMMARY, *drawn)
    for note in (f"watched: {measured.coverage}", *(f"saved {file}" for file in files)):
        stderr().print(note, highlight=False, soft_wrap=True)


def _inspected(target: str | None, overrides: list[str], stage: list[str] | None) -> tuple[RunFolder | None, Recipe]:
    """The run, where one is inspected, and the recipe that says what is read and which model it is."""
    from clkit.errors import UsageError
    from clkit.recipe.loading import keep_model, without_target
    from clkit.recipe.recipe import Recipe
    from clkit.run.folder import RunFolder

    target, overrides = without_target(target, overrides)
    if target is None or Path(target, "recipe.yaml").is_file():
        keep_model(overrides, Recipe.model_fields)
        run = RunFolder.open(target) if target is not None else RunFolder.newest()
        return run, Recipe.load(run.recipe_path, overrides)
    if stage:
        raise UsageError(
            f"--stage needs a run folder, and {target} is none; leave it out to inspect the recipe's model"
        )
    return None, Recipe.load(target, overrides)
