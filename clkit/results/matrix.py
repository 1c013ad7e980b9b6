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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from clkit.results.kinds import RANKED, UNBOUNDED, Protocol, Row
from clkit.results.metrics import Metric, compute
from clkit.results.scores import Chance, Guess

if TYPE_CHECKING:
    from pandas import DataFrame

#: The keys of `matrix.json`, in its order; those that it cannot be without.
_NEEDED = ("tasks", "metric", "higher_is_better", "zero_shot", "rows", "counts")
_KEYS = ("protocol", *_NEEDED, "chance")


@dataclass
class AccuracyMatrix:
    """The scores of a run: one row per training so far, one column per task, in the order of learning.

    Attributes:
        counts: test examples of each task, for pretraining blocks of text: the weights of the micro average.
        zero_shot: the row before any training; None where it was not measured.
        rows: sequential: a row after each task. multi_task: one row. per_task: a row after each task, with the score
            on that task alone. zero_shot: none. Fewer while a run is in progress.
        chance: what guesses would score, by each metric of labels (`clkit.results.scores`); None where it is unknown.

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
    chance: Chance | None = None

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
        if self.chance is not None:
            self.chance = self._checked_chance(self.chance)

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
    def guesses(self) -> dict[Guess, Row]:
        """What guesses would score by this metric, one row each; nothing where that is unknown or has no meaning."""
        return (self.chance or {}).get("exact_match" if self.metric == RANKED else self.metric, {})

    @property
    def below_majority(self) -> dict[str, tuple[float, float]]:
        """Tasks that were learned to less than what their most frequent label scores: both scores by their names."""
        if self.protocol == "zero_shot" or "majority" not in self.guesses:
            return {}
        learned = self.outcome if self.protocol == "multi_task" else [row[at] for at, row in enumerate(self.rows)]
        return {
            task: (score, guess)
            for task, score, guess in zip(self.tasks, learned, self.guesses["majority"], strict=False)
            if score is not None and guess is not None and score < guess
        }

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
        return compute(self, given)

    def to_pandas(self) -> DataFrame:
        """The scores as they are: a row per stage, a column per task, NaN where nothing was measured."""
        from pandas import DataFrame  # late: it takes a second

        rows = {} if self.zero_shot is None else {"zero-shot": self.zero_shot}
        names = ["all tasks"] if self.protocol == "multi_task" else self.tasks
        rows |= {f"after {name}": row for name, row in zip(names, self.rows, strict=False)}
        table = DataFrame.from_dict(rows, "index", float, columns=self.tasks)
        return table.rename_axis(index=self.metric, columns="task")

    def _repr_html_(self) -> str:
        """The table that a notebook shows: percent of fractions, deeper where the score is better."""
        table = self.to_pandas() * (100 if self.is_fraction else 1)
        low, high = (0, 100) if self.is_fraction else (None, None)
        styled = table.style.format(precision=1 if self.is_fraction else 2, na_rep="–")
        for axis in (0, 1):
            styled = styled.format_index(axis=axis, escape="html")
        deep = "Blues" if self.higher_is_better else "Blues_r"
        styled = styled.background_gradient(deep, axis=None, vmin=low, vmax=high)
        return str(styled.highlight_null(props="background-color: transparent; color: inherit").to_html())

    def header(self) -> dict[str, Any]:
        """What is known before any score: the arguments that make this matrix without its rows."""
        return {key: value for key, value in self.to_json().items() if key not in ("zero_shot", "rows")}

    def to_json(self) -> dict[str, Any]:
        """The content of `matrix.json`."""
        return {key: getattr(self, key) for key in _KEYS}

    @classmethod
    def from_json(cls, data: Any) -> AccuracyMatrix:
        """The matrix of a parsed `matrix.json`. Without a protocol it is of a sequence, without chance of none known.

        Raises:
            ValueError: the first thing in it that is missing, unknown or malformed.
        """
        if not isinstance(data, dict):
            raise ValueError("a matrix must be a JSON object")
        for key in data:
            if key not in _KEYS:
                raise ValueError(f"unknown key '{key}' (known keys: {', '.join(_KEYS)})")
        for key in _NEEDED:
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

    def _checked_chance(self, chance: Any) -> Chance:
        if not isinstance(chance, dict) or any(
            not isinstance(rows, dict) or rows.keys() != set(get_args(Guess)) for rows in chance.values()
        ):
            raise ValueError(f"chance: needs {' and '.join(get_args(Guess))} by metric, or null")
        return {
            metric: {guess: self._checked(f"chance.{metric}.{guess}", row) for guess, row in rows.items()}
            for metric, rows in chance.items()
        }

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
