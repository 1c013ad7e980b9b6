"""Whether one method does better than another: differences over the same seeds and orders, their interval, and a test.

The interval is Student's, of the mean of the differences. The test flips signs: were the methods alike, each difference
could as well have come out the other way round, and p is the share of all ways in which the mean lies as far from 0 as
the one that was measured. Of n pairs it cannot be below 2/2^n, so five pairs never give p < 0.05, and six can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from clkit.draws import seeded
from clkit.results.spread import t_interval

#: Fewer differences say nothing of their spread.
FEWEST = 3
#: Up to so many pairs every way of flipping signs is counted, and of more as many ways are drawn.
COUNTED = 14
#: How far two sums of the same numbers may differ by rounding, as a share of the sum of their sizes.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Paired:
    """How much higher one method's value is than another's, over pairs of runs.

    Attributes:
        mean: of the differences; None, as all else, for fewer than `FEWEST` pairs.
        interval: the 95 % t-interval of the mean.
        p: of the two-sided sign-flip test.
        holm: p after Holm's correction for all methods that are compared by this metric.
        note: why there are no numbers.
    """

    n: int
    mean: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {
            "n": self.n,
            "mean_difference": self.mean,
            "interval_95": interval,
            "p": self.p,
            "p_holm": self.holm,
            "note": self.note,
        }


def paired(differences: Sequence[float]) -> Paired:
    """Mean, interval and test of the differences, one for each pair."""
    n = len(differences)
    if n < FEWEST:
        return Paired(n, note=f"{n} pairs of runs, and fewer than {FEWEST} say nothing")
    return Paired(n, fmean(differences), t_interval(differences), sign_flip(differences))


def sign_flip(differences: Sequence[float]) -> float:
    """The p-value of the two-sided sign-flip permutation test: exact for up to `COUNTED` differences.

    For more it is (1 + as extreme) / (1 + drawn) over 2^`COUNTED` ways that are drawn, always the same ones.
    """
    # Rounding must not make a way less extreme that has the same sum.
    limit = abs(sum(differences)) - _ROUNDING * sum(map(abs, differences))
    if len(differences) <= COUNTED:
        return fmean(abs(total) >= limit for total in _signed_sums(differences))
    parts = [_signed_sums(differences[start : start + 8]) for start in range(0, len(differences), 8)]
    draw, drawn = seeded("sign-flip"), 1 << COUNTED
    extreme = 0
    for _ in range(drawn):
        ways = draw.getrandbits(8 * len(parts)).to_bytes(len(parts))
        extreme += abs(sum(part[way % len(part)] for part, way in zip(parts, ways, strict=True))) >= limit
    return (1 + extreme) / (1 + drawn)


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
