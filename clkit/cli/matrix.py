"""``clkit matrix``: what a run knew after each task, and the metrics of continual learning."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from clkit.cli import AsTable, Metric, References, Runs, opened

if TYPE_CHECKING:
    from clkit.results.matrix import AccuracyMatrix
    from clkit.run.baselines import Reference
    from clkit.run.folder import RunFolder


def matrix(
    runs: Runs = None,
    reference: References = None,
    metric: Metric = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrices, metrics and means as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per score: run,stage,task,score.")] = False,
    as_table: AsTable = None,
    every_matrix: Annotated[bool, typer.Option("--all", help="Of several runs, show each matrix too.")] = False,
) -> None:
    """Show the scores after each task and the metrics: average accuracy, BWT, FWT, forgetting, learning accuracy.

    Several runs are shown side by side; those that differ in their seed only get a mean and, from three on, its 95 %
    interval, and such groups are compared by their pairs, as `clkit compare` does, with the first.

    Example: clkit matrix runs/t5_order1-42 runs/t5_order1-43 --reference runs/per_task-42
    """
    from clkit.errors import UsageError
    from clkit.report.console import make_console
    from clkit.report.runs import compare_runs
    from clkit.report.sheets import rendered, results_sheet
    from clkit.run.baselines import open_references
    from clkit.run.folder import RunFolder

    if as_json + as_csv + (as_table is not None) > 1:
        raise UsageError("--json, --csv and --table exclude each other")
    if every_matrix and (as_json or as_csv or as_table):
        raise UsageError("--all is for the terminal; --json and --csv always hold every matrix")
    if reference and as_csv:
        raise UsageError("--reference is for metrics, and --csv holds scores only; use --json")
    found = _with_scores(opened(runs)) if runs else [RunFolder.newest()]
    folders = {str(folder.path): folder for folder in found}
    matrices = {name: (folder, _read(folder, metric)) for name, folder in folders.items()}
    if as_csv:
        _print_csv((name, one) for name, (_, one) in matrices.items())
        return
    references = open_references((RunFolder.open(path) for path in reference or []), metric)
    compared = compare_runs(matrices, references)
    for remark in compared.remarks:
        typer.echo(f"note: {remark}", err=True)
    for baseline in references:
        _warn_of_differences(baseline, folders)
    if as_json:
        typer.echo(json.dumps(compared.to_json(), indent=2, ensure_ascii=False))
    elif as_table:
        typer.echo(rendered(results_sheet(compared), as_table), nl=False)
    else:
        console = make_console()
        for table in compared.tables(console.width, every_matrix=every_matrix):
            console.print(table)


def _with_scores(runs: list[RunFolder]) -> list[RunFolder]:
    """The runs without those that have only just begun, as some of a sweep have, if others have not."""
    begun = [run for run in runs if any(stage.is_finished for stage in run.stage_folders())]
    if begun:
        for run in runs:
            if run not in begun:
                typer.echo(f"note: {run.path}: nothing was evaluated so far, so it is left out", err=True)
    return begun or runs


def _read(run: RunFolder, metric: str | None) -> AccuracyMatrix:
    """The run's matrix; warns of what of it is damaged, and says what else its reader should know."""
    matrix, damage, notes = run.scores(metric)
    doctor = [f"`clkit doctor {run.path}` lists all that is damaged"] if damage else []
    for kind, remarks in (("warning", [*damage, *doctor]), ("note", notes)):
        for remark in remarks:
            typer.echo(f"{kind}: {remark}", err=True)
    return matrix


def _warn_of_differences(reference: Reference, folders: dict[str, RunFolder]) -> None:
    different = {name: keys for name, folder in folders.items() if (keys := reference.differences(folder))}
    if different:
        named = dict.fromkeys(key for keys in different.values() for key in keys)
        typer.echo(
            f"warning: {reference.name} and {', '.join(different)} differ in {', '.join(named)}: "
            "the comparison may not be fair",
            err=True,
        )


def _print_csv(matrices: Iterable[tuple[str, AccuracyMatrix]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "stage", "task", "score"])
    for name, one in matrices:
        # Stage 0 is the zero-shot row, stage k the one after training k; a score that was not measured stays empty.
        zero_shot = [] if one.zero_shot is None else [(0, one.zero_shot)]
        for stage, row in [*zero_shot, *enumerate(one.rows, start=1)]:
            writer.writerows([name, stage, task, score] for task, score in zip(one.tasks, row, strict=True))
