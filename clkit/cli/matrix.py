"""``clkit matrix``: what a run knew after each task, and the metrics of continual learning."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clkit.report.general_tables import GeneralAbility
    from clkit.report.tables import SeedGroup
    from clkit.results.matrix import AccuracyMatrix, Metric, Row
    from clkit.run.baselines import Reference
    from clkit.run.folder import RunFolder


def matrix(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders; without any, the newest in runs/.", show_default=False)
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Compare with a baseline's run: per_task gives intransigence, multi_task the upper bound."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Score by this metric instead of the run's own: macro_f1, loss, ...", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print matrices, metrics and means as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per score: run,stage,task,score.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Of several runs, show each matrix too.")] = False,
) -> None:
    """Show the scores after each task and the metrics: average accuracy, BWT, FWT, forgetting, learning accuracy.

    Several runs are shown side by side; those that differ in their seed only get a mean and its 95 % interval.

    Example: clkit matrix runs/t5_order1-42 runs/t5_order1-43 --reference runs/per_task-42
    """
    from clkit.errors import UsageError
    from clkit.report.general_tables import read_general
    from clkit.run.baselines import open_references, reference_rows
    from clkit.run.folder import RunFolder
    from clkit.run.recovery import recover_matrix

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if show_all and (as_json or as_csv):
        raise UsageError("--all is for tables; --json and --csv always hold every matrix")
    if reference and as_csv:
        raise UsageError("--reference is for metrics, and --csv holds scores only; use --json")
    opened = [RunFolder.open(run) for run in runs] if runs else [RunFolder.newest()]
    folders = {str(folder.path): folder for folder in opened}
    recovered = {name: recover_matrix(folder, metric) for name, folder in folders.items()}
    for name, one in recovered.items():
        for remark in one.remarks:
            typer.echo(f"warning: {remark}", err=True)
        if one.remarks:
            typer.echo(f"warning: `clkit doctor {name}` lists all that is damaged", err=True)
    matrices = {name: one.matrix for name, one in recovered.items()}
    if as_csv:
        _print_csv(matrices)
        return
    references = open_references((RunFolder.open(path) for path in reference or []), metric)
    rows = {name: reference_rows(references, one, name) for name, one in matrices.items()}
    for baseline in references:
        _warn_of_differences(baseline, folders)
    metrics = {name: one.metrics(**rows[name]) for name, one in matrices.items()}
    means = _means(folders, matrices, rows)
    general = {name: read_general(folder, matrices[name].protocol) for name, folder in folders.items()}
    if as_json:
        _print_json(matrices, metrics, general, means, references)
    else:
        heads = {name: said for name, folder in folders.items() if (said := _heads(folder))}
        _print_tables(matrices, metrics, general, means, references, heads, show_all=show_all)


def _heads(folder: RunFolder) -> str | None:
    """What a classifier's kind of head means for its scores; None for other runs, and where the recipe is damaged."""
    from clkit.errors import ClkitError

    try:
        objective = folder.recipe().get("objective")
    except ClkitError:
        return None
    if not isinstance(objective, dict) or objective.get("kind") != "classification":
        return None
    from clkit.models.objective import HEADS

    return HEADS.get(str(objective.get("heads")))


def _warn_of_differences(reference: Reference, folders: Mapping[str, RunFolder]) -> None:
    different = {name: keys for name, folder in folders.items() if (keys := reference.differences(folder))}
    if different:
        named = dict.fromkeys(key for keys in different.values() for key in keys)
        typer.echo(
            f"warning: {reference.name} and {', '.join(different)} differ in {', '.join(named)}: "
            "the comparison may not be fair",
            err=True,
        )


def _means(
    folders: Mapping[str, RunFolder],
    matrices: Mapping[str, AccuracyMatrix],
    rows: Mapping[str, Mapping[str, Row]],
) -> list[SeedGroup]:
    if len(folders) < 2:
        return []
    from clkit.errors import RunError
    from clkit.report.tables import SeedGroup
    from clkit.results.spread import aggregate
    from clkit.run.comparison import seed_groups

    groups = [[str(folder.path) for folder in group] for group in seed_groups(folders.values())]
    try:
        return [SeedGroup(group, aggregate([matrices[name] for name in group], **rows[group[0]])) for group in groups]
    except ValueError as error:  # equal recipes, yet other matrices: a file was changed by hand
        raise RunError(f"no mean over {', '.join(folders)}: {error}") from error


def _print_tables(
    matrices: Mapping[str, AccuracyMatrix],
    metrics: Mapping[str, Mapping[str, Metric]],
    general: Mapping[str, GeneralAbility | None],
    means: list[SeedGroup],
    references: Sequence[Reference],
    heads: Mapping[str, str],
    *,
    show_all: bool,
) -> None:
    from rich.text import Text

    from clkit.report.general_tables import general_table
    from clkit.report.tables import (
        REFERENCE_HEADS,
        Shown,
        make_console,
        matrix_table,
        metrics_table,
        runs_table,
    )

    console = make_console()
    shown = [Shown(name, metrics[name], one.metric) for name, one in matrices.items()]
    baselines = [Shown(one.name, one.matrix.metrics(), one.matrix.metric, one.role) for one in references]
    for name, one in matrices.items():
        if show_all or len(matrices) == 1:
            console.print(Text(name, style="bold"), "", matrix_table(one, console.width), "", sep="\n")
            if name in heads:
                console.print(Text(heads[name], style="italic"), "", sep="\n")
        if one.in_progress:
            console.print(Text(f"{name}: {one.in_progress}; the metrics come with the last task", style="yellow"))
        elif len(matrices) == 1:
            console.print(metrics_table(metrics[name], one.metric, baselines))
        ability = general[name]
        if ability is not None and (show_all or len(matrices) == 1):
            console.print("", general_table(ability, console.width), sep="\n")
    if len(matrices) > 1:
        console.print(runs_table(shown, means, baselines))
        further = {name: head for name, head in REFERENCE_HEADS.items() if name in shown[0].metrics}
        if further:
            console.print("", runs_table(shown, means, heads=further), sep="\n")
        for name, said in heads.items():
            console.print(Text(f"{name}: {said}", style="italic"))


def _print_json(
    matrices: Mapping[str, AccuracyMatrix],
    metrics: Mapping[str, Mapping[str, Metric]],
    general: Mapping[str, GeneralAbility | None],
    means: list[SeedGroup],
    references: Sequence[Reference],
) -> None:
    runs = [
        {
            "run": name,
            **_as_json(one, metrics[name]),
            "general": ability.to_json() if (ability := general[name]) else None,
        }
        for name, one in matrices.items()
    ]
    compared = [{"run": one.name, **_as_json(one.matrix, one.matrix.metrics())} for one in references]
    aggregates = [
        {"runs": group.runs, "metrics": {key: metric.to_json() for key, metric in group.metrics.items()}}
        for group in means
    ]
    document = {"runs": runs, "references": compared, "aggregates": aggregates}
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _as_json(one: AccuracyMatrix, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {
        "in_progress": one.in_progress is not None,
        "matrix": one.to_json(),
        "metrics": {key: metric.to_json() for key, metric in metrics.items()},
    }


def _print_csv(matrices: Mapping[str, AccuracyMatrix]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "stage", "task", "score"])
    for name, one in matrices.items():
        # Stage 0 is the zero-shot row, stage k the one after training k; a score that was not measured stays empty.
        zero_shot = [] if one.zero_shot is None else [(0, one.zero_shot)]
        for stage, row in [*zero_shot, *enumerate(one.rows, start=1)]:
            writer.writerows([name, stage, task, score] for task, score in zip(one.tasks, row, strict=True))
