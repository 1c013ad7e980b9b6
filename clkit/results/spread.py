"""Metrics over runs that differ in their seed only: mean, standard deviation, and the interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import Metric


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
    return Aggregate(n, mean, stdev(values), t_interval(values))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t-interval of the mean of two values or more."""
    mean, n = fmean(values), len(values)
    half = _t_quantile(n - 1) * stdev(values) / math.sqrt(n)
    return mean - half, mean + half


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
