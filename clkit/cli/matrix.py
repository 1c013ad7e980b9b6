"""``clkit matrix``: what a run knew after each task, and the metrics of continual learning."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clkit.matrix import AccuracyMatrix
    from clkit.report.tables import SeedGroup
    from clkit.runs import RunFolder


def matrix(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders; without any, the newest in runs/.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrices, metrics and means as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per score: run,stage,task,score.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Of several runs, show each matrix too.")] = False,
) -> None:
    """Show the scores after each task and the metrics: average accuracy, BWT, FWT, forgetting, learning accuracy.

    Several runs are shown side by side; those that differ in their seed only get a mean and its 95 % interval.

    Example: clkit matrix runs/t5_order1-42 runs/t5_order1-43
    """
    from clkit.errors import UsageError
    from clkit.runs import RunFolder

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if show_all and (as_json or as_csv):
        raise UsageError("--all is for tables; --json and --csv always hold every matrix")
    opened = [RunFolder.open(run) for run in runs] if runs else [RunFolder.newest()]
    folders = {str(folder.path): folder for folder in opened}
    matrices = {name: folder.read_matrix() for name, folder in folders.items()}
    if as_csv:
        _print_csv(matrices)
    elif as_json:
        _print_json(matrices, _means(folders, matrices))
    else:
        _print_tables(matrices, _means(folders, matrices), show_all=show_all)


def _means(folders: Mapping[str, RunFolder], matrices: Mapping[str, AccuracyMatrix]) -> list[SeedGroup]:
    if len(folders) < 2:
        return []
    from clkit.errors import RunError
    from clkit.matrix import aggregate
    from clkit.report.tables import SeedGroup
    from clkit.runs import seed_groups

    groups = [[str(folder.path) for folder in group] for group in seed_groups(folders.values())]
    try:
        return [SeedGroup(group, aggregate([matrices[name] for name in group])) for group in groups]
    except ValueError as error:  # equal recipes, yet other matrices: a file was changed by hand
        raise RunError(f"no mean over {', '.join(folders)}: {error}") from error


def _print_tables(matrices: Mapping[str, AccuracyMatrix], means: list[SeedGroup], *, show_all: bool) -> None:
    from rich.text import Text

    from clkit.report.tables import make_console, matrix_table, metrics_table, runs_table

    console = make_console()
    for name, one in matrices.items():
        if show_all or len(matrices) == 1:
            console.print(Text(name, style="bold"), "", matrix_table(one, console.width), "", sep="\n")
        if one.in_progress:
            console.print(Text(f"{name}: {one.in_progress}; the metrics come with the last task", style="yellow"))
        elif len(matrices) == 1:
            console.print(metrics_table(one.metrics(), fraction=one.is_fraction))
    if len(matrices) > 1:
        console.print(runs_table(matrices, means))


def _print_json(matrices: Mapping[str, AccuracyMatrix], means: list[SeedGroup]) -> None:
    runs: list[dict[str, Any]] = [
        {
            "run": name,
            "in_progress": one.in_progress is not None,
            "matrix": one.to_json(),
            "metrics": {key: metric.to_json() for key, metric in one.metrics().items()},
        }
        for name, one in matrices.items()
    ]
    aggregates = [
        {"runs": group.runs, "metrics": {key: metric.to_json() for key, metric in group.metrics.items()}}
        for group in means
    ]
    typer.echo(json.dumps({"runs": runs, "aggregates": aggregates}, indent=2, ensure_ascii=False))


def _print_csv(matrices: Mapping[str, AccuracyMatrix]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "stage", "task", "score"])
    for name, one in matrices.items():
        # Stage 0 is the zero-shot row, stage k the one after task k; a score that was not measured stays empty.
        zero_shot = [] if one.zero_shot is None else [(0, one.zero_shot)]
        for stage, row in [*zero_shot, *enumerate(one.rows, start=1)]:
            writer.writerows([name, stage, task, score] for task, score in zip(one.tasks, row, strict=True))
