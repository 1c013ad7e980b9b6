"""Whether one method does better than another: differences over the same seeds and orders, their interval, and a test.

The interval is Student's, of the mean of the differences. The test flips signs: were the methods alike, each difference
could as well have come out the other way round, and p is the share of all ways in which the mean lies as far from 0 as
the one that was measured. Five pairs never give p < 0.05, and six can (`smallest_p`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from clkit.draws import seeded
from clkit.results.spread import t_interval

#: Fewer differences say nothing of their spread.
FEWEST = 3
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
        interval: the 95 % t-interval of the mean.
        p: of the two-sided sign-flip test.
        holm: p after Holm's correction for all methods that are compared by this metric.
        note: why there are no numbers.
    """

    n: int
    means: tuple[float, float] | None = None
    mean: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        mean, against = self.means or (None, None)
        return {
            "n": self.n,
            "mean": mean,
            "mean_against": against,
            "mean_difference": self.mean,
            "interval_95": interval,
            "p": self.p,
            "p_holm": self.holm,
            "note": self.note,
        }


def paired(pairs: Sequence[tuple[float, float]]) -> Paired:
    """Means, interval and test of the first values against the second."""
    n = len(pairs)
    if n < FEWEST:
        return Paired(n, note=f"fewer than {FEWEST} pairs of runs say nothing")
    differences = [one - other for one, other in pairs]
    means = fmean(one for one, _ in pairs), fmean(other for _, other in pairs)
    return Paired(n, means, fmean(differences), t_interval(differences), sign_flip(differences))


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
