"""What runs have to show, side by side: scores, metrics, general ability, means over seeds, and their references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.text import Text

from clkit.errors import ClkitError, RunError
from clkit.models.objective import HEADS
from clkit.report.comparison_tables import comparison_tables
from clkit.report.general_tables import GeneralAbility, general_runs_table, general_table, read_general
from clkit.report.matrix_tables import curves_table, matrix_table
from clkit.report.pairs import Compared, Comparison, against_the_first
from clkit.report.tables import (
    CHANCE,
    REFERENCE_HEADS,
    RunMetrics,
    SeedGroup,
    below_majority,
    metrics_table,
    runs_table,
    show_score,
)
from clkit.results.kinds import OUTSIDE, RANKED, Row
from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import Metric, split_forgetting
from clkit.results.spread import Aggregate, aggregate
from clkit.run.baselines import Reference, reference_rows
from clkit.run.comparison import read_otherwise, seed_groups, telling_apart, tested_split
from clkit.run.folder import RunFolder


class RunResult(NamedTuple):
    """What one run has to show.

    Attributes:
        heads: what a classifier's kind of head means for its scores; None for other runs.
        ranked: the metrics where labels are ranked; None where only what was generated is scored.
    """

    name: str
    matrix: AccuracyMatrix
    metrics: dict[str, Metric]
    general: GeneralAbility | None
    heads: str | None
    ranked: dict[str, Metric] | None

    @property
    def final(self) -> Mapping[str, float | None]:
        """What is left of its general ability."""
        return self.general.final if self.general else {}


@dataclass(frozen=True)
class ComparedRuns:
    """Runs side by side.

    Attributes:
        remarks: why there is no mean over runs, or no comparison, that one may look for, and what makes one doubtful.
    """

    runs: list[RunResult]
    references: Sequence[Reference]
    means: list[SeedGroup]
    paired: list[Comparison]
    remarks: list[str]

    def tables(self, width: int, *, every_matrix: bool) -> Iterator[RenderableType]:
        """What a terminal shows of them, one below the other, in at most ``width`` characters where that can be."""
        several = len(self.runs) > 1
        baselines = self.baselines()
        for run in self.runs:
            if every_matrix or not several:
                yield from (Text(run.name, style="bold"), "", matrix_table(run.matrix, width), "")
                if curves := curves_table(run.matrix, width):
                    yield from (curves, "")
                if run.heads:
                    yield from (Text(run.heads, style="italic"), "")
            yield from (Text(f"{run.name}: {remark}", style="yellow") for remark in below_majority(run.matrix))
            if run.matrix.in_progress:
                progress = f"{run.name}: {run.matrix.in_progress}; the metrics come with the last task"
                yield Text(progress, style="yellow")
            elif not several:
                yield metrics_table(run.metrics, run.matrix.metric, baselines)
                if run.ranked:
                    known = {name: one.value for name, one in run.ranked.items() if one.value is not None}
                    shown = (f"{name} {show_score(value, RANKED)}" for name, value in known.items())
                    yield Text(f"the labels ranked (--metric {RANKED}): {', '.join(shown)}", style="italic")
            if run.general is not None and (every_matrix or not several):
                yield from ("", general_table(run.general, width))
        if several:
            metrics = [RunMetrics(run.name, run.metrics, run.matrix.metric) for run in self.runs]
            yield runs_table(metrics, self.means, baselines)
            if further := {name: head for name, head in REFERENCE_HEADS.items() if name in self.runs[0].metrics}:
                yield from ("", runs_table(metrics, self.means, heads=further))
            general = {run.name: run.general for run in self.runs if run.general}
            if any(one.final for one in general.values()):
                yield from ("", general_runs_table(general, self.means))
            yield from (Text(f"{run.name}: {run.heads}", style="italic") for run in self.runs if run.heads)
        if self.paired:
            yield from ("", *comparison_tables(self.paired))

    def baselines(self) -> list[RunMetrics]:
        """What the runs are compared with: the references, and what guesses score where all are tested alike."""
        found = [RunMetrics(one.name, one.matrix.metrics(), one.matrix.metric, one.role) for one in self.references]
        return [*found, *_chance([run.matrix for run in self.runs])]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {
                    **_scores_as_json(run.name, run.matrix, run.metrics),
                    "general": run.general.to_json() if run.general else None,
                    "ranked": _as_json(run.ranked) if run.ranked else None,
                }
                for run in self.runs
            ],
            "references": [_scores_as_json(one.name, one.matrix, one.matrix.metrics()) for one in self.references],
            "aggregates": [
                {"label": group.label, "runs": group.runs, "metrics": _as_json(group.metrics)} for group in self.means
            ],
            "comparisons": [one.to_json() for one in self.paired],
            "remarks": self.remarks,
        }


def compare_runs(
    matrices: dict[str, tuple[RunFolder, AccuracyMatrix]], references: Sequence[Reference]
) -> ComparedRuns:
    """All that the runs have to show.

    Args:
        matrices: of each run by its name.

    Raises:
        RunError: runs with equal recipes have matrices that do not fit together.
        UsageError: a reference does not fit a run.
    """
    given = {name: reference_rows(references, matrix, name) for name, (_, matrix) in matrices.items()}
    runs = [_result(folder, matrix, given[name]) for name, (folder, matrix) in matrices.items()]
    whole = {name: folder for name, (folder, matrix) in matrices.items() if not matrix.in_progress}
    means = []
    groups, twice = seed_groups(whole.values()) if len(runs) > 1 else ([], [])
    labels = telling_apart([{**group[0].recipe(), "seed": None} for group in groups])
    for group, label in zip(groups, labels, strict=True):
        names = [str(folder.path) for folder in group]
        try:
            metrics = aggregate([matrices[name][1] for name in names], **given[names[0]])
        except ValueError as error:  # equal recipes, yet other matrices: a file was changed by hand
            raise RunError(f"no mean over {', '.join(matrices)}: {error}") from error
        means.append(SeedGroup(names, metrics, label))
    finished = [
        Compared(run.name, whole[run.name].recipe(), run.matrix, run.final, whole[run.name].read())
        for run in (runs if len(runs) > 1 else ())
        if run.name in whole
    ]
    paired, remarks = against_the_first(finished)
    unfinished = [
        f"{run.name}: {run.matrix.in_progress}; it counts in no mean, comparison or --table"
        for run in (runs if whole else ())
        if run.matrix.in_progress
    ]
    again = [
        f"{', '.join(str(run.path) for run in group)}: no mean, for they are of one recipe, and a seed is there twice"
        for group in twice
    ]
    return ComparedRuns(runs, references, means, paired, [*unfinished, *again, *_tested_otherwise(groups), *remarks])


def _tested_otherwise(groups: Sequence[Sequence[RunFolder]]) -> Iterator[str]:
    """A remark on each run that was not tested on what the first of its group was."""
    for first, *others in groups:
        for other in others:
            if keys := read_otherwise(first.read(), other.read(), tested_split(first)):
                yield (
                    f"{other.path} and {first.path}: what they read was changed in between ({', '.join(keys)}): "
                    "their mean is over scores that do not compare"
                )


def _result(folder: RunFolder, matrix: AccuracyMatrix, given: Mapping[str, Row]) -> RunResult:
    outside, ranked = (_rescored(folder, matrix, metric) for metric in (OUTSIDE, RANKED))
    metrics = matrix.metrics(**given) | (split_forgetting(matrix, outside) if outside else {})
    fwt = metrics["fwt"]
    if fwt.note and matrix.zero_shot and not matrix.in_progress and _models_kept(folder):
        metrics["fwt"] = replace(fwt, note=f"{fwt.note}; clkit eval --fill measures it")
    general = read_general(folder, matrix.protocol)
    if general and matrix.in_progress:
        general = replace(general, final={})
    return RunResult(
        str(folder.path), matrix, metrics, general, _about_heads(folder), ranked.metrics() if ranked else None
    )


def _models_kept(folder: RunFolder) -> bool:
    """Whether each stage of the run can still be tested."""
    try:
        return all(stage.model_kept for stage in folder.stages())
    except RunError:
        return False


def _rescored(folder: RunFolder, matrix: AccuracyMatrix, metric: str) -> AccuracyMatrix | None:
    """The scores that accompany exact match, where the run has them."""
    if matrix.metric != "exact_match":
        return None
    try:
        return folder.scores(metric).matrix
    except ClkitError:
        return None


def _chance(matrices: Sequence[AccuracyMatrix]) -> Iterator[RunMetrics]:
    """What guesses would score on average, where all runs are tested alike; each seed draws its own training labels."""
    first = matrices[0]
    if any((one.metric, _counts(one)) != (first.metric, _counts(first)) for one in matrices):
        return
    for guess in first.guesses:
        rows = [dict(zip(one.tasks, one.guesses.get(guess, []), strict=False)) for one in matrices]
        scores = [[score for one in rows if (score := one.get(task)) is not None] for task in first.tasks]
        if all(len(of_task) == len(rows) for of_task in scores):
            row: Row = [fmean(of_task) for of_task in scores]
            guessed = AccuracyMatrix(first.tasks, first.counts, first.metric, zero_shot=row, protocol="zero_shot")
            yield RunMetrics(CHANCE[guess], guessed.metrics(), first.metric, "chance")


def _counts(matrix: AccuracyMatrix) -> dict[str, int]:
    return dict(zip(matrix.tasks, matrix.counts, strict=True))


def _about_heads(folder: RunFolder) -> str | None:
    try:
        objective = folder.recipe().get("objective")
    except ClkitError:  # the recipe is damaged, and the scores are not
        return None
    if not isinstance(objective, dict) or objective.get("kind") != "classification":
        return None
    return HEADS.get(str(objective.get("heads")))


def _as_json(metrics: Mapping[str, Metric | Aggregate]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


def _scores_as_json(name: str, matrix: AccuracyMatrix, metrics: dict[str, Metric]) -> dict[str, Any]:
    return {
        "run": name,
        "in_progress": matrix.in_progress is not None,
        "matrix": matrix.to_json(),
        "metrics": _as_json(metrics),
        "below_majority": list(matrix.below_majority),
    }
