"""Metrics over runs that differ in their seed only; and whether one method does better than another.

The interval is Student's, of the mean: of a metric, or of the differences of two methods over the same seeds and
orders. Their test flips signs: were the methods alike, each difference could as well have come out the other way round,
and p is the share of all ways in which the mean lies as far from 0 as the one that was measured. Five pairs never give
p < 0.05, and six can (`smallest_p`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

from clkit.draws import seeded
from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import Metric, limits

#: Fewer values, or differences, say nothing of their spread.
FEWEST = 3


class Interval(NamedTuple):
    """The ends of an interval, and whether it went on beyond what its metric can be and was cut there."""

    low: float
    high: float
    cut: bool


@dataclass(frozen=True)
class Aggregate:
    """One metric over several seeds.

    Attributes:
        std: the sample standard deviation (n - 1); None for one seed.
        half: of the 95 % t-interval of the mean; None for one seed.
        interval: the 95 % t-interval, cut where the metric's range ends; None for fewer than `FEWEST` seeds.
        note: why there is no mean.
    """

    n: int
    mean: float | None
    std: float | None = None
    half: float | None = None
    interval: Interval | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "mean": self.mean, "std": self.std, **_as_json(self.interval), "note": self.note}


def aggregate(
    matrices: Sequence[AccuracyMatrix],
    reference: Sequence[float | None] | None = None,
    upper_bound: Sequence[float | None] | None = None,
) -> dict[str, Aggregate]:
    """Each metric over runs that differ in their seed only. One run gives its value, with neither std nor interval.

    A metric that one of the runs lacks has no mean: it would be a mean over other seeds than its neighbours'.
    Reference and upper bound, as in `AccuracyMatrix.metrics`, are the same for all runs.

    Raises:
        ValueError: there is no run, or the runs differ in tasks, metric, direction or protocol.
    """
    alike = {(tuple(one.tasks), one.metric, one.higher_is_better, one.protocol) for one in matrices}
    if len(alike) != 1:
        raise ValueError("only runs over the same tasks with the same metric can be averaged")
    computed = [matrix.metrics(reference, upper_bound) for matrix in matrices]
    return {
        name: _aggregate_one([metrics[name] for metrics in computed], limits(name, matrices[0].metric))
        for name in computed[0]
    }


def _aggregate_one(metrics: Sequence[Metric], limits: tuple[float, float]) -> Aggregate:
    n = len(metrics)
    values = [metric.value for metric in metrics if metric.value is not None]
    if len(values) < n:
        reason = next(metric.note for metric in metrics if metric.value is None)
        return Aggregate(n, None, note=f"missing in {n - len(values)} of {n} runs: {reason}")
    mean = fmean(values)
    if n == 1:
        return Aggregate(n, mean)
    return Aggregate(n, mean, stdev(values), half_interval(values), t_interval(values, limits) if n >= FEWEST else None)


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of the mean of two values or more."""
    return _t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def t_interval(values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """The 95 % t-interval of the mean of two values or more, which lie between the limits."""
    mean, half = fmean(values), half_interval(values)
    low, high = max(mean - half, limits[0]), min(mean + half, limits[1])
    return Interval(low, high, (low, high) != (mean - half, mean + half))


def _as_json(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {"interval_95": None, "interval_cut": None}
    return {"interval_95": [interval.low, interval.high], "interval_cut": interval.cut}


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


#: Up to so many pairs every way of flipping signs is counted, and of more so many ways are drawn.
COUNTED, DRAWN = 28, 16_384
#: How far two sums of the same numbers may differ by rounding, as a share of the sum of their sizes.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Paired:
    """How much higher one method's value is than another's, over pairs of runs.

    Attributes:
        means: of the two methods; None, as all else, for fewer than `FEWEST` pairs.
        mean: of the differences.
        interval: the 95 % t-interval of the mean, cut where differences of the metric end.
        p: of the two-sided sign-flip test.
        holm: p after Holm's correction for all methods that are compared by this metric.
        note: why there are no numbers.
    """

    n: int
    means: tuple[float, float] | None = None
    mean: float | None = None
    interval: Interval | None = None
    p: float | None = None
    holm: float | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        mean, against = self.means or (None, None)
        return {
            "n": self.n,
            "mean": mean,
            "mean_against": against,
            "mean_difference": self.mean,
            **_as_json(self.interval),
            "p": self.p,
            "p_holm": self.holm,
            "note": self.note,
        }


def paired(pairs: Sequence[tuple[float, float]], farthest: float = math.inf) -> Paired:
    """Means, interval and test of the first values against the second; none can differ by more than ``farthest``."""
    n = len(pairs)
    if n < FEWEST:
        return Paired(n, note=f"fewer than {FEWEST} pairs of runs say nothing")
    differences = [one - other for one, other in pairs]
    means = fmean(one for one, _ in pairs), fmean(other for _, other in pairs)
    return Paired(n, means, fmean(differences), t_interval(differences, (-farthest, farthest)), sign_flip(differences))


def smallest_p(n: int) -> float:
    """What the sign-flip test of so many pairs can give at best: no way but the one measured, and its opposite."""
    return math.ldexp(1.0, 1 - n)


def sign_flip(differences: Sequence[float]) -> float:
    """The p-value of the two-sided sign-flip permutation test: exact for up to `COUNTED` differences.

    For more it is (1 + as extreme) / (1 + drawn) over `DRAWN` ways of flipping them, always the same ones.
    """
    # Rounding must not make a way less extreme that has the same sum.
    limit = abs(sum(differences)) - _ROUNDING * sum(map(abs, differences))
    if limit <= 0:
        return 1.0
    if len(differences) <= COUNTED:
        # Of each way for one half: those for the other with which it comes out as high. As many come out as low.
        half = len(differences) // 2
        others = sorted(_signed_sums(differences[half:]))
        high = sum(len(others) - bisect_left(others, limit - one) for one in _signed_sums(differences[:half]))
        return math.ldexp(high, 1 - len(differences))
    draw = seeded("sign-flip")
    parts = [_signed_sums(differences[start : start + 8]) for start in range(0, len(differences), 8)]
    extreme = 0
    for _ in range(DRAWN):
        ways = draw.getrandbits(8 * len(parts)).to_bytes(len(parts))
        extreme += abs(sum(part[way % len(part)] for part, way in zip(parts, ways, strict=True))) >= limit
    return (1 + extreme) / (1 + DRAWN)


def _signed_sums(values: Sequence[float]) -> list[float]:
    """The sum of the values with every choice of their signs."""
    sums = [0.0]
    for value in values:
        sums = [total + signed for total in sums for signed in (value, -value)]
    return sums


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th smallest of m times m - k + 1, never below an earlier one, at most 1.

    Where there is no p-value nothing was tested, and it counts for none.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for smaller, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - smaller) * p))
        corrected[place] = highest
    return corrected
