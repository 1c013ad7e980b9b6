"""The matrix of scores after each task, and the metrics of continual learning, which are read off it.

R[i][j] is the score on task j after task i was learned, counted from 1; R[0] is the row before any training
(zero-shot); T is the number of tasks. A score that was not measured is None, never 0; so is each metric that needs it.
R*[j] is the score of a model that learned task j alone, U[j] that of one that learned all tasks together::

    matrix = AccuracyMatrix(tasks=["dbpedia", "amazon"], counts=[500, 500])
    matrix.add_row([0.98, None])
    matrix.add_row([0.90, 0.55])
    matrix.metrics()["bwt"].value  # -0.08: what dbpedia lost while amazon was learned
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple, get_args

Row = list[float | None]

#: How the tasks were learned: one after another, or in one of three baselines.
Protocol = Literal["sequential", "multi_task", "per_task", "zero_shot"]

#: What a task can be scored by.
MetricName = Literal["exact_match", "macro_f1", "loss", "perplexity"]

# Lower is better for these. Every other metric is a fraction: its scores lie between 0 and 1 and are shown in percent.
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
    """The scores of a run: one row per training so far, one column per task, in the order of learning.

    Attributes:
        counts: test examples of each task, for pretraining blocks of text: the weights of the micro average.
        zero_shot: the row before any training; None where it was not measured.
        rows: sequential: a row after each task. multi_task: one row. per_task: a row after each task, with the score
            on that task alone. zero_shot: none. Fewer while a run is in progress.

    Raises:
        ValueError: shapes do not fit, or a score is not a number in the metric's range.
    """

    tasks: list[str]
    counts: list[int]
    metric: str = "exact_match"
    higher_is_better: bool = True
    zero_shot: Row | None = None
    rows: list[Row] = field(default_factory=list)
    protocol: Protocol = "sequential"

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
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {self.protocol!r}")
        if not isinstance(self.rows, list) or len(self.rows) > self._rows_due:
            raise ValueError(f"rows: needs a list of at most {self._rows_due} rows (protocol: {self.protocol})")
        self.rows = [self._checked_row(index, row) for index, row in enumerate(self.rows)]

    @property
    def is_fraction(self) -> bool:
        """Whether the scores lie between 0 and 1."""
        return self.metric not in UNBOUNDED

    @property
    def in_progress(self) -> str | None:
        """How far the run is, as a phrase, or None where it is complete."""
        if self.protocol == "zero_shot":
            return None if self.zero_shot is not None else f"run in progress: 0 of {len(self.tasks)} tasks tested"
        if len(self.rows) == self._rows_due:
            return None
        return f"run in progress: {len(self.rows)} of {len(self.tasks)} tasks learned"

    @property
    def outcome(self) -> Row:
        """Each task's score when all is done: the last row; per_task: the diagonal; zero_shot: the zero-shot row."""
        if self.protocol == "per_task":
            done = [row[index] for index, row in enumerate(self.rows)]
        elif self.protocol == "zero_shot":
            done = self.zero_shot or []
        else:
            done = [] if self.in_progress else self.rows[-1]
        return [*done, *[None] * (len(self.tasks) - len(done))]

    @property
    def _rows_due(self) -> int:
        return {"multi_task": 1, "zero_shot": 0}.get(self.protocol, len(self.tasks))

    def add_row(self, row: Sequence[float | None]) -> None:
        """Add the scores on all tasks after the next training; None where one was not measured.

        Raises:
            ValueError: the row does not fit, or every row is there.
        """
        if len(self.rows) == self._rows_due:
            raise ValueError(f"all rows are there (protocol: {self.protocol}, {len(self.tasks)} tasks)")
        self.rows.append(self._checked_row(len(self.rows), row))

    def metrics(
        self, reference: Sequence[float | None] | None = None, upper_bound: Sequence[float | None] | None = None
    ) -> dict[str, Metric]:
        """All metrics by name, in the order of `METRICS`.

        Metrics describe the whole run: while tasks remain, each is None and its note says so. Those that compare rows
        of a sequence are None for the baselines, which have no such rows.

        Args:
            reference: R*, the scores of one model per task; with it, `intransigence` is computed as well.
            upper_bound: U, the scores after learning all tasks together; with it, `upper_bound_distance` is as well.

        Raises:
            ValueError: the reference or the upper bound does not fit the tasks.
        """
        given = {
            name: self._checked(name, row)
            for name, row in (("reference", reference), ("upper_bound", upper_bound))
            if row is not None
        }
        scores = _Scores(self, given)
        return {
            name: definition.on(scores)
            for name, definition in METRICS.items()
            if definition.needs is None or definition.needs in given
        }

    def header(self) -> dict[str, Any]:
        """What is known before any score: the arguments that make this matrix without its rows."""
        return {key: value for key, value in self.to_json().items() if key not in ("zero_shot", "rows")}

    def to_json(self) -> dict[str, Any]:
        """The content of `matrix.json`."""
        return {
            "protocol": self.protocol,
            "tasks": self.tasks,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "zero_shot": self.zero_shot,
            "rows": self.rows,
            "counts": self.counts,
        }

    @classmethod
    def from_json(cls, data: Any) -> AccuracyMatrix:
        """The matrix of a parsed `matrix.json`. Without a protocol it is of a sequence: there was no other once.

        Raises:
            ValueError: the first thing in it that is missing, unknown or malformed.
        """
        if not isinstance(data, dict):
            raise ValueError("a matrix must be a JSON object")
        needed = ("tasks", "metric", "higher_is_better", "zero_shot", "rows", "counts")
        known = ("protocol", *needed)
        for key in data:
            if key not in known:
                raise ValueError(f"unknown key '{key}' (known keys: {', '.join(known)})")
        for key in needed:
            if key not in data:
                raise ValueError(f"the key '{key}' is missing")
        return cls(**data)

    def _checked_row(self, index: int, row: Sequence[float | None]) -> Row:
        checked = self._checked(f"rows[{index}]", row)
        if self.protocol == "per_task" and any(
            score is not None for place, score in enumerate(checked) if place != index
        ):
            raise ValueError(
                f"rows[{index}]: has scores on other tasks than '{self.tasks[index]}' (protocol: per_task)"
            )
        return checked

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

    def __init__(self, matrix: AccuracyMatrix, given: dict[str, Row]) -> None:
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

    def alone(self, j: int) -> float:
        """R*[j], the score on task j of a model that was trained on it alone."""
        score = self.given["reference"][j - 1]
        if score is None:
            raise _CannotComputeError(f"R*[{j}] was not measured: '{self.matrix.tasks[j - 1]}' learned alone")
        return score

    def together(self, j: int) -> float:
        """U[j], the score on task j of a model that learned all tasks together."""
        score = self.given["upper_bound"][j - 1]
        if score is None:
            raise _CannotComputeError(f"U[{j}] was not measured: '{self.matrix.tasks[j - 1]}' learned together")
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
    return fmean(r.outcome(j) for j in r.tasks)


def _average_accuracy_micro(r: _Scores) -> float:
    return fmean([r.outcome(j) for j in r.tasks], weights=r.matrix.counts)


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


def _upper_bound_distance(r: _Scores) -> float:
    return fmean(r.gain(r.together(j), r.outcome(j)) for j in r.tasks)


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
    "average_accuracy": Definition("mean_j R[T][j]", "mean_j R[T][j]", _average_accuracy, _ALL),
    "average_accuracy_micro": Definition(
        "sum_j n[j] R[T][j] / sum_j n[j]", "sum_j n[j] R[T][j] / sum_j n[j]", _average_accuracy_micro, _ALL
    ),
    "bwt": Definition("mean_{j<T} (R[T][j] - R[j][j])", "mean_{j<T} (R[j][j] - R[T][j])", _bwt),
    "fwt": Definition("mean_{j>1} (R[j-1][j] - R[0][j])", "mean_{j>1} (R[0][j] - R[j-1][j])", _fwt),
    "forgetting": Definition(
        "mean_{j<T} (max_{j<=i<T} R[i][j] - R[T][j])", "mean_{j<T} (R[T][j] - min_{j<=i<T} R[i][j])", _forgetting
    ),
    "learning_accuracy": Definition(
        "mean_j R[j][j]", "mean_j R[j][j]", _learning_accuracy, frozenset({"sequential", "per_task"})
    ),
    "intransigence": Definition(
        "mean_j (R*[j] - R[j][j])", "mean_j (R[j][j] - R*[j])", _intransigence, needs="reference"
    ),
    "upper_bound_distance": Definition(
        "mean_j (U[j] - R[T][j])", "mean_j (R[T][j] - U[j])", _upper_bound_distance, _ALL, needs="upper_bound"
    ),
}
