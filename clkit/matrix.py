"""The matrix of scores after each task, and the metrics of continual learning, which are read off it.

R[i][j] is the score on task j after task i was learned, counted from 1; R[0] is the row before any training
(zero-shot); T is the number of tasks. A score that was not measured is None, never 0; so is each metric that needs it::

    matrix = AccuracyMatrix(tasks=["dbpedia", "amazon"], counts=[500, 500])
    matrix.add_row([0.98, None])
    matrix.add_row([0.90, 0.55])
    matrix.metrics()["bwt"].value  # -0.08: what dbpedia lost while amazon was learned
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

Row = list[float | None]

# Every other metric is a fraction: its scores lie between 0 and 1 and are shown in percent.
UNBOUNDED = frozenset({"loss", "perplexity"})


@dataclass(frozen=True)
class Metric:
    """One number, the formula it follows, and, where there is no number, the reason."""

    value: float | None
    formula: str
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "formula": self.formula, "note": self.note}


@dataclass
class AccuracyMatrix:
    """The scores of a run: one row per learned task, one column per task, in the order of learning.

    Attributes:
        counts: test examples of each task, the weights of the micro average.
        zero_shot: the row before any training; None where it was not measured.
        rows: one row per task learned so far; fewer than there are tasks while a run is in progress.

    Raises:
        ValueError: shapes do not fit, or a score is not a number in the metric's range.
    """

    tasks: list[str]
    counts: list[int]
    metric: str = "exact_match"
    higher_is_better: bool = True
    zero_shot: Row | None = None
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tasks = _list_of(str, "tasks", self.tasks)
        self.counts = _list_of(int, "counts", self.counts)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks: one or more names are needed, each of them once")
        if len(self.counts) != len(self.tasks) or min(self.counts) < 1:
            raise ValueError(f"counts: needs {len(self.tasks)} numbers of test examples, each 1 or more")
        if not isinstance(self.metric, str) or not isinstance(self.higher_is_better, bool):
            raise ValueError("metric must be a name and higher_is_better true or false")
        if self.zero_shot is not None:
            self.zero_shot = self._checked("zero_shot", self.zero_shot)
        if not isinstance(self.rows, list) or len(self.rows) > len(self.tasks):
            raise ValueError(f"rows: needs a list of at most {len(self.tasks)} rows, one per task")
        self.rows = [self._checked(f"rows[{index}]", row) for index, row in enumerate(self.rows)]

    @property
    def is_fraction(self) -> bool:
        """Whether the scores lie between 0 and 1."""
        return self.metric not in UNBOUNDED

    @property
    def in_progress(self) -> str | None:
        """How far the run is, as a phrase, or None where every task was learned."""
        if len(self.rows) == len(self.tasks):
            return None
        return f"run in progress: {len(self.rows)} of {len(self.tasks)} tasks learned"

    def add_row(self, row: Sequence[float | None]) -> None:
        """Add the scores on all tasks after the next task was learned; None where one was not measured.

        Raises:
            ValueError: the row does not fit, or all tasks have their row.
        """
        if not self.in_progress:
            raise ValueError(f"all {len(self.tasks)} tasks have their row")
        self.rows.append(self._checked(f"rows[{len(self.rows)}]", row))

    def metrics(self, reference: Sequence[float | None] | None = None) -> dict[str, Metric]:
        """All metrics by name, in the order of `METRICS`.

        Metrics describe the whole sequence: while tasks remain, each is None and its note says so.

        Args:
            reference: R*, the scores of one model per task trained alone; with it, `intransigence` is computed as well.

        Raises:
            ValueError: the reference does not fit the tasks.
        """
        scores = _Scores(self, None if reference is None else self._checked("reference", reference))
        return {
            name: definition.on(scores)
            for name, definition in METRICS.items()
            if reference is not None or name != "intransigence"
        }

    def to_json(self) -> dict[str, Any]:
        """The content of `matrix.json`."""
        return {
            "tasks": self.tasks,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "zero_shot": self.zero_shot,
            "rows": self.rows,
            "counts": self.counts,
        }

    @classmethod
    def from_json(cls, data: Any) -> AccuracyMatrix:
        """The matrix of a parsed `matrix.json`.

        Raises:
            ValueError: the first thing in it that is missing, unknown or malformed.
        """
        if not isinstance(data, dict):
            raise ValueError("a matrix must be a JSON object")
        known = ("tasks", "metric", "higher_is_better", "zero_shot", "rows", "counts")
        for key in data:
            if key not in known:
                raise ValueError(f"unknown key '{key}' (known keys: {', '.join(known)})")
        for key in known:
            if key not in data:
                raise ValueError(f"the key '{key}' is missing")
        return cls(**data)

    def _checked(self, where: str, row: Sequence[float | None]) -> Row:
        if not isinstance(row, list | tuple) or len(row) != len(self.tasks):
            raise ValueError(f"{where}: needs a list of {len(self.tasks)} scores, one per task")
        top = 1.0 if self.is_fraction else math.inf
        for task, score in zip(self.tasks, row, strict=True):
            if score is None:
                continue
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"{where}: the score on '{task}' must be a number or null, got {score!r}")
            if not 0 <= score <= top:
                allowed = "between 0 and 1" if self.is_fraction else "0 or more"
                raise ValueError(f"{where}: the {self.metric} on '{task}' must be {allowed}, got {score!r}")
        return list(row)


def _list_of(kind: type, where: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple) or any(type(value) is not kind for value in values):
        raise ValueError(f"{where}: needs a list of {'names' if kind is str else 'whole numbers'}")
    return list(values)


class _CannotComputeError(Exception):
    """A metric has no value; the message says why."""


class _Scores:
    """R, addressed as in the formulas: ``r(i, j)`` is the score on task j after task i, counted from 1."""

    def __init__(self, matrix: AccuracyMatrix, reference: Row | None) -> None:
        self.matrix = matrix
        self.reference = reference
        self.T = len(matrix.tasks)
        self.tasks = range(1, self.T + 1)

    def __call__(self, i: int, j: int) -> float:
        names = self.matrix.tasks
        if i == 0 and self.matrix.zero_shot is None:
            raise _CannotComputeError("no zero-shot row (evaluation.zero_shot)")
        row = self.matrix.rows[i - 1] if i else self.matrix.zero_shot
        score = row[j - 1] if row else None
        if score is None:
            when = f"after '{names[i - 1]}'" if i else "before training"
            hint = " (evaluation.tasks: all)" if 0 < i < j else ""
            raise _CannotComputeError(f"R[{i}][{j}] was not measured: '{names[j - 1]}' {when}{hint}")
        return score

    def alone(self, j: int) -> float:
        """R*[j], the score on task j of a model that was trained on it alone."""
        score = self.reference[j - 1] if self.reference else None
        if score is None:
            raise _CannotComputeError(f"R*[{j}] was not measured: '{self.matrix.tasks[j - 1]}' learned alone")
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


def _average_accuracy(r: _Scores) -> float:
    return fmean(r(r.T, j) for j in r.tasks)


def _average_accuracy_micro(r: _Scores) -> float:
    return fmean([r(r.T, j) for j in r.tasks], weights=r.matrix.counts)


def _bwt(r: _Scores) -> float:
    return fmean(r.gain(r(r.T, j), r(j, j)) for j in r.earlier())


def _fwt(r: _Scores) -> float:
    return fmean(r.gain(r(j, j + 1), r(0, j + 1)) for j in r.earlier())


def _forgetting(r: _Scores) -> float:
    return fmean(r.gain(r.best(r(i, j) for i in range(j, r.T)), r(r.T, j)) for j in r.earlier())


def _learning_accuracy(r: _Scores) -> float:
    return fmean(r(j, j) for j in r.tasks)


def _intransigence(r: _Scores) -> float:
    return fmean(r.gain(r.alone(j), r(j, j)) for j in r.tasks)


class Definition(NamedTuple):
    """A metric's formula, the same where lower scores are better, and the function that computes both."""

    formula: str
    formula_lower: str
    compute: Callable[[_Scores], float]

    def on(self, scores: _Scores) -> Metric:
        formula = self.formula if scores.matrix.higher_is_better else self.formula_lower
        if scores.matrix.in_progress:
            return Metric(None, formula, scores.matrix.in_progress)
        try:
            return Metric(self.compute(scores), formula)
        except _CannotComputeError as reason:
            return Metric(None, formula, str(reason))


# Differences are turned round where lower is better, so that a positive BWT or FWT is always good and a positive
# forgetting always bad. Forgetting compares with the best score before the last task: its maximum leaves out row T.
METRICS: dict[str, Definition] = {
    "average_accuracy": Definition("mean_j R[T][j]", "mean_j R[T][j]", _average_accuracy),
    "average_accuracy_micro": Definition(
        "sum_j n[j] R[T][j] / sum_j n[j]", "sum_j n[j] R[T][j] / sum_j n[j]", _average_accuracy_micro
    ),
    "bwt": Definition("mean_{j<T} (R[T][j] - R[j][j])", "mean_{j<T} (R[j][j] - R[T][j])", _bwt),
    "fwt": Definition("mean_{j>1} (R[j-1][j] - R[0][j])", "mean_{j>1} (R[0][j] - R[j-1][j])", _fwt),
    "forgetting": Definition(
        "mean_{j<T} (max_{j<=i<T} R[i][j] - R[T][j])", "mean_{j<T} (R[T][j] - min_{j<=i<T} R[i][j])", _forgetting
    ),
    "learning_accuracy": Definition("mean_j R[j][j]", "mean_j R[j][j]", _learning_accuracy),
    "intransigence": Definition("mean_j (R*[j] - R[j][j])", "mean_j (R[j][j] - R*[j])", _intransigence),
}


@dataclass(frozen=True)
class Aggregate:
    """One metric over several seeds.

    Attributes:
        std: the sample standard deviation (n - 1); None for one seed.
        interval: the 95 % t-interval of the mean; None for one seed.
        note: why there is no mean.
    """

    n: int
    mean: float | None
    std: float | None = None
    interval: tuple[float, float] | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {"n": self.n, "mean": self.mean, "std": self.std, "interval_95": interval, "note": self.note}


def aggregate(matrices: Sequence[AccuracyMatrix]) -> dict[str, Aggregate]:
    """Each metric over runs that differ in their seed only. One run gives its value, with neither std nor interval.

    A metric that one of the runs lacks has no mean: it would be a mean over other seeds than its neighbours'.

    Raises:
        ValueError: there is no run, or the runs differ in tasks, metric or direction.
    """
    if len({(tuple(matrix.tasks), matrix.metric, matrix.higher_is_better) for matrix in matrices}) != 1:
        raise ValueError("only runs over the same tasks with the same metric can be averaged")
    computed = [matrix.metrics() for matrix in matrices]
    return {name: _aggregate_one([metrics[name] for metrics in computed]) for name in computed[0]}


def _aggregate_one(metrics: Sequence[Metric]) -> Aggregate:
    n = len(metrics)
    values = [metric.value for metric in metrics if metric.value is not None]
    if len(values) < n:
        reason = next(metric.note for metric in metrics if metric.value is None)
        return Aggregate(n, None, note=f"missing in {n - len(values)} of {n} runs: {reason}")
    mean = fmean(values)
    if n == 1:
        return Aggregate(n, mean)
    std = stdev(values)
    half = _t_quantile(n - 1) * std / math.sqrt(n)
    return Aggregate(n, mean, std, (mean - half, mean + half))


_T_QUANTILES = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)


def _t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t: a table, then Cornish and Fisher's expansion (off by less than 0.0002)."""
    if freedom <= len(_T_QUANTILES):
        return _T_QUANTILES[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
