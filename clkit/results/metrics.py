"""The metrics of continual learning, each with its formula; `clkit.results.matrix` says what R, R* and U are."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple, get_args

from clkit.results.kinds import UNBOUNDED, Protocol, Row

#: Metrics that are means of scores; the others are means of differences of scores.
MEANS = frozenset({"average_accuracy", "average_accuracy_micro", "learning_accuracy"})


def limits(name: str, scored_by: str) -> tuple[float, float]:
    """Between which a metric lies where the tasks are scored by another: no accuracy is above 1, and no BWT."""
    highest = math.inf if scored_by in UNBOUNDED else 1.0
    return (0.0 if name in MEANS else -highest), highest


@dataclass(frozen=True)
class Metric:
    """One number, the formula it follows, and, where there is no number, the reason."""

    value: float | None
    formula: str
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Scored(typing.Protocol):
    """What the metrics read of a matrix."""

    tasks: list[str]
    counts: list[int]
    higher_is_better: bool
    zero_shot: Row | None
    rows: list[Row]
    protocol: Protocol

    @property
    def in_progress(self) -> str | None: ...


class _CannotComputeError(Exception):
    """A metric has no value; the message says why."""


class _Scores:
    """R, addressed as in the formulas: ``r(i, j)`` is the score on task j after task i, counted from 1."""

    def __init__(self, matrix: Scored, given: dict[str, Row]) -> None:
        self.matrix = matrix
        self.given = given
        self.T = len(matrix.tasks)
        self.tasks = range(1, self.T + 1)

    def __call__(self, i: int, j: int) -> float:
        names = self.matrix.tasks
        if i == 0 and self.matrix.zero_shot is None:
            raise _CannotComputeError("no zero-shot row (evaluation.zero_shot)")
        # The one row of multi_task comes after all tasks: it is row T.
        row = self.matrix.zero_shot if i == 0 else self.matrix.rows[-1 if i == self.T else i - 1]
        score = row[j - 1] if row else None
        if score is None:
            when = f"after '{names[i - 1]}'" if i else "before training"
            hint = " (evaluation.tasks: all)" if 0 < i < j else ""
            raise _CannotComputeError(f"R[{i}][{j}] was not measured: '{names[j - 1]}' {when}{hint}")
        return score

    def outcome(self, j: int) -> float:
        """The score on task j when all is done."""
        return self({"zero_shot": 0, "per_task": j}.get(self.matrix.protocol, self.T), j)

    def other(self, row: str, j: int) -> float:
        """The score on task j of a model that learned it alone (`reference`), or with all others (`upper_bound`)."""
        score = self.given[row][j - 1]
        if score is None:
            symbol, how = {"reference": ("R*", "alone"), "upper_bound": ("U", "together")}[row]
            raise _CannotComputeError(f"{symbol}[{j}] was not measured: '{self.matrix.tasks[j - 1]}' learned {how}")
        return score

    def gain(self, new: float, old: float) -> float:
        """How much better ``new`` is than ``old``."""
        return new - old if self.matrix.higher_is_better else old - new

    def best(self, scores: Iterable[float]) -> float:
        return max(scores) if self.matrix.higher_is_better else min(scores)

    def earlier(self) -> range:
        """The tasks before the last one."""
        if self.T == 1:
            raise _CannotComputeError("needs two tasks or more")
        return range(1, self.T)


def _forgetting(r: _Scores) -> float:
    return fmean(r.gain(r.best(r(i, j) for i in range(j, r.T)), r(r.T, j)) for j in r.earlier())


# How the formulas call a task's score when all is done, and why a baseline lacks the metrics of a sequence.
_OUTCOME: dict[Protocol, str] = {
    "sequential": "R[T][j]",
    "multi_task": "R[T][j]",
    "per_task": "R*[j]",
    "zero_shot": "R[0][j]",
}
_NO_SEQUENCE: dict[Protocol, str] = {
    "multi_task": "all learned together (protocol: multi_task)",
    "per_task": "each learned alone (protocol: per_task)",
    "zero_shot": "nothing was learned (protocol: zero_shot)",
}
_ALL = frozenset(get_args(Protocol))


class Definition(NamedTuple):
    """A metric's formula, the same where lower scores are better, and the function that computes both.

    Attributes:
        protocols: those that it has a meaning in.
        needs: what must be given for it: `reference` or `upper_bound`.
    """

    formula: str
    formula_lower: str
    compute: Callable[[_Scores], float]
    protocols: frozenset[Protocol] = frozenset({"sequential"})
    needs: str | None = None

    def on(self, scores: _Scores) -> Metric:
        matrix = scores.matrix
        formula = self.formula if matrix.higher_is_better else self.formula_lower
        if matrix.protocol not in self.protocols:
            return Metric(None, formula, _NO_SEQUENCE[matrix.protocol])
        formula = formula.replace("R[T][j]", _OUTCOME[matrix.protocol])
        if matrix.in_progress:
            return Metric(None, formula, matrix.in_progress)
        try:
            return Metric(self.compute(scores), formula)
        except _CannotComputeError as reason:
            return Metric(None, formula, str(reason))


# Differences are turned round where lower is better, so that a positive BWT or FWT is always good and a positive
# forgetting always bad. Forgetting compares with the best score before the last task: its maximum leaves out row T.
METRICS: dict[str, Definition] = {
    "average_accuracy": Definition(
        "mean_j R[T][j]", "mean_j R[T][j]", lambda r: fmean(r.outcome(j) for j in r.tasks), _ALL
    ),
    "average_accuracy_micro": Definition(
        "sum_j n[j] R[T][j] / sum_j n[j]",
        "sum_j n[j] R[T][j] / sum_j n[j]",
        lambda r: fmean([r.outcome(j) for j in r.tasks], weights=r.matrix.counts),
        _ALL,
    ),
    "bwt": Definition(
        "mean_{j<T} (R[T][j] - R[j][j])",
        "mean_{j<T} (R[j][j] - R[T][j])",
        lambda r: fmean(r.gain(r(r.T, j), r(j, j)) for j in r.earlier()),
    ),
    "fwt": Definition(
        "mean_{j>1} (R[j-1][j] - R[0][j])",
        "mean_{j>1} (R[0][j] - R[j-1][j])",
        lambda r: fmean(r.gain(r(j, j + 1), r(0, j + 1)) for j in r.earlier()),
    ),
    "forgetting": Definition(
        "mean_{j<T} (max_{j<=i<T} R[i][j] - R[T][j])", "mean_{j<T} (R[T][j] - min_{j<=i<T} R[i][j])", _forgetting
    ),
    "learning_accuracy": Definition(
        "mean_j R[j][j]",
        "mean_j R[j][j]",
        lambda r: fmean(r(j, j) for j in r.tasks),
        frozenset({"sequential", "per_task"}),
    ),
    "intransigence": Definition(
        "mean_j (R*[j] - R[j][j])",
        "mean_j (R[j][j] - R*[j])",
        lambda r: fmean(r.gain(r.other("reference", j), r(j, j)) for j in r.tasks),
        needs="reference",
    ),
    "upper_bound_distance": Definition(
        "mean_j (U[j] - R[T][j])",
        "mean_j (R[T][j] - U[j])",
        lambda r: fmean(r.gain(r.other("upper_bound", j), r.outcome(j)) for j in r.tasks),
        _ALL,
        needs="upper_bound",
    ),
}


def split_forgetting(matrix: Scored, outside: Scored) -> dict[str, Metric]:
    """Forgetting of exact match in its two parts: answers that are no label of the task, and wrong ones among them.

    With O[i][j] the share of answers outside the labels and i* the row of the best R[i][j] before the last task (the
    first of several), the parts are mean_{j<T} (O[T][j] - O[i*][j]) and what is left of forgetting.
    """
    scores, shares = _Scores(matrix, {}), _Scores(outside, {})

    def grown(r: _Scores) -> float:
        best = [(max((r(i, j), -i) for i in range(j, r.T)), j) for j in r.earlier()]
        return fmean(shares(r.T, j) - shares(-i, j) for (_, i), j in best)

    def rest(r: _Scores) -> float:
        return _forgetting(r) - grown(r)

    formula = "mean_{j<T} (O[T][j] - O[i*][j]), O outside the labels"
    parts = {
        "forgetting_outside_labels": Definition(formula, formula, grown),
        "forgetting_among_labels": Definition(difference := "forgetting - forgetting_outside_labels", difference, rest),
    }
    return {name: part.on(scores) for name, part in parts.items()}


def compute(matrix: Scored, given: dict[str, Row]) -> dict[str, Metric]:
    """Every metric of `METRICS` that is due, by name.

    Args:
        given: rows of other runs, by what `Definition.needs` calls them.
    """
    scores = _Scores(matrix, given)
    return {
        name: definition.on(scores)
        for name, definition in METRICS.items()
        if definition.needs is None or definition.needs in given
    }
