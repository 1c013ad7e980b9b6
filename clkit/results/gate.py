"""Rules that a run must keep, with the room that chance needs: a build should not fail by luck.

A score of n test examples is a share p of right answers with the binomial variance p (1 − p) / n. The errors of the
cells that a metric is computed from, taken as independent, give its standard error; a rule on one run is broken where
it is by more than 1.645 of them (a one-sided test at 5 %). Over several seeds the spread between them, which holds the
drawing of the test too, takes its place: half of the 95 % interval of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clkit.results.matrix import AccuracyMatrix
from clkit.results.spread import aggregate

ONE_SIDED = 1.645

Bound = Literal["at most", "at least"]


@dataclass(frozen=True)
class Ruling:
    """One rule with what came of it.

    Attributes:
        value: of the metric, a fraction or in the unit of the loss; None where it cannot be computed.
        noise: by how much chance alone may move it.
        note: why there is no value, or why the noise is unknown.
    """

    rule: str
    bound: Bound
    limit: float
    value: float | None
    noise: float = 0.0
    note: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the rule is kept, or broken by no more than the noise. What was not measured is not kept."""
        if self.value is None:
            return False
        over = self.value - self.limit if self.bound == "at most" else self.limit - self.value
        return over <= self.noise + 1e-12  # 0.9 - 0.8 is above 0.1 by rounding

    def to_json(self) -> dict[str, Any]:
        keys = ("rule", "bound", "limit", "value", "noise", "passed", "note")
        return {key: getattr(self, key) for key in keys}


def judge(
    rule: str, bound: Bound, limit: float, runs: Sequence[AccuracyMatrix], against: AccuracyMatrix | None = None
) -> Ruling:
    """A rule on a metric of continual learning, over runs that differ in their seed only.

    Args:
        rule: the metric's name.
        limit: as the metric is measured; with ``against``, how far it may lie from that run's value.
        against: the run whose value the limit is counted from.

    Raises:
        ValueError: the runs differ in more than their seed.
    """
    spread = aggregate(runs)[rule]
    value, note = spread.mean, spread.note
    noise = _binomial(runs[0], rule) if spread.half is None else spread.half
    if against is not None and value is not None:
        before = against.metrics()[rule]
        value, note = (None, before.note) if before.value is None else (value - before.value, None)
        other = _binomial(against, rule)
        noise = None if noise is None or other is None else math.hypot(noise, other)
    if value is not None and noise is None:
        note = "chance is unknown for one run of this metric"
    return Ruling(rule, bound, limit, value, noise or 0.0, note)


def _binomial(matrix: AccuracyMatrix, rule: str) -> float | None:
    """1.645 standard errors of `average_accuracy` or `forgetting`; None where the scores are no shares of answers."""
    if matrix.metric != "exact_match" or matrix.in_progress:
        return None
    if rule == "average_accuracy":
        cells = [[(score, count)] for score, count in zip(matrix.outcome, matrix.counts, strict=True)]
    else:
        cells = [_best_and_last(matrix, task) for task in range(len(matrix.tasks) - 1)]
    variances = [score * (1 - score) / count for one in cells for score, count in one if score is not None]
    return ONE_SIDED * math.sqrt(sum(variances)) / max(len(cells), 1)


def _best_and_last(matrix: AccuracyMatrix, task: int) -> list[tuple[float | None, int]]:
    known = [score for row in matrix.rows[task:-1] if (score := row[task]) is not None]
    return [(score, matrix.counts[task]) for score in (max(known, default=None), matrix.rows[-1][task])]
