"""`clkit inspect-magnitudes`: which rows of a model's layers answer loudest, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clkit.cli import AcceptChanges

if TYPE_CHECKING:
    from clkit.engine.inspection import Magnitudes
    from clkit.recipe.recipe import Recipe
    from clkit.run.folder import RunFolder

#: What is written into the folder.
FILES = ("magnitudes.safetensors", "magnitudes.json", "magnitudes.png")


def inspect_magnitudes(
    target: Annotated[
        str | None,
        typer.Argument(help="A run folder, or a recipe for its untrained model.  [default: newest run in runs/]"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: model.name=PATH")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of a run: task name or number, or `zero-shot`.")] = None,
    layers: Annotated[
        str, typer.Option(help="Layers to watch: roles, names or patterns, separated by commas.")
    ] = "attention,feed_forward",
    top: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of rows that counts as top (1 - T).")] = 0.3,
    examples: Annotated[int, typer.Option(min=1, help="Training examples of each task.")] = 64,
    out: Annotated[
        Path | None, typer.Option(help="Folder for data and figure.  [default: RUN/inspect/STAGE, or inspect/NAME]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what was measured into that folder before.")] = False,
    accept_changes: AcceptChanges = False,
    all_layers: Annotated[bool, typer.Option("--all", help="List every layer, not one line per kind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure output magnitudes per task and layer; show how far tasks share their top rows.

    Prints a table; saves the L1-normalised magnitudes, their summary and a figure.

    Example: clkit inspect-magnitudes runs/quickstart-42 --stage 1
    """
    from clkit.errors import UsageError
    from clkit.report.console import quiet_libraries
    from clkit.run.layout import INSPECT, check_target

    entries = [layer.strip() for layer in layers.split(",") if layer.strip()]
    if not entries:
        raise UsageError("--layers names no layer; give roles, names or patterns, such as --layers attention,wo")
    folder, recipe = _inspected(target, overrides or [], stage)
    destination = out or (folder.path / INSPECT if folder else Path(INSPECT, recipe.name))
    check_target(destination, "--out", replace=force, files=FILES, own=folder.path if folder else None)
    quiet_libraries()
    from clkit.engine.evaluate import learned_stages

    saved = learned_stages(folder, stage, accept_changes=accept_changes) if folder else []
    measured = _measured(recipe, saved, layers=entries, examples=examples, top_share=top)
    name = saved[-1].name if saved else "zero-shot"
    if folder and out is None:
        destination /= name
    _show(measured, name, destination, every=all_layers, as_json=as_json)


def _measured(recipe: Recipe, stages: Sequence[Path], **options: Any) -> Magnitudes:
    from clkit.engine.inspection import measure_magnitudes
    from clkit.engine.prepare import labels_of, load_learner
    from clkit.recipe.inputs import load_tasks
    from clkit.report.console import stderr
    from clkit.report.progress import evaluation_progress

    tasks = load_tasks(recipe)
    with evaluation_progress(stderr()) as listener:
        family = load_learner(recipe, labels_of(tasks), stages)
        return measure_magnitudes(family, tasks, recipe=recipe, listener=listener, **options)


def _show(measured: Magnitudes, name: str, destination: Path, *, every: bool, as_json: bool) -> None:
    """Save data and figure, and print the summary."""
    import json

    from clkit.report.console import make_console, stderr
    from clkit.report.magnitudes import layer_table, overlap_table, save_magnitude_figure

    files = [*measured.save(destination), save_magnitude_figure(measured, destination / FILES[-1])]
    if as_json:
        typer.echo(json.dumps({"stage": name, **measured.summary()}, indent=2))
    else:
        make_console().print(overlap_table(measured))
        make_console().print(layer_table(measured, every=every))
    for note in (f"watched: {measured.coverage}", *(f"saved {file}" for file in files)):
        stderr().print(note, highlight=False, soft_wrap=True)


def _inspected(target: str | None, overrides: list[str], stage: str | None) -> tuple[RunFolder | None, Recipe]:
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
    if stage is not None:
        raise UsageError(
            f"--stage needs a run folder, and {target} is none; leave it out to inspect the recipe's model"
        )
    return None, Recipe.load(target, overrides)
