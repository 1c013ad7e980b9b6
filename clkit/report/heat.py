"""Colours and curves for a glance; the numbers beside them say the same, and all is readable without colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.style import Style

from clkit.results.matrix import AccuracyMatrix

#: From the worst to the best: brighter to every kind of eye (after matplotlib's cividis).
RAMP = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 174, 108), (254, 232, 56))
LEVELS, GAP = "▁▂▃▄▅▆▇█", "·"


def heat(share: float) -> Style:
    """How a cell looks whose score lies at this share, 0 to 1, of the way from the worst to the best."""
    ground = between(RAMP, share)
    return Style(color=Color.from_triplet(ink_on(ground)), bgcolor=Color.from_triplet(ground))


def between(stops: Sequence[Sequence[int]], share: float) -> ColorTriplet:
    """The colour at this share, 0 to 1, of the way along these."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    below = min(int(place), len(stops) - 2)
    ends = zip(stops[below], stops[below + 1], strict=True)
    return ColorTriplet(*(round(low + (high - low) * (place - below)) for low, high in ends))


def ink_on(ground: ColorTriplet) -> ColorTriplet:
    """Black or white, whichever contrasts more: by 4.58 at least, the contrast of both where they are alike."""
    return ColorTriplet(0, 0, 0) if luminance(ground) > 0.179 else ColorTriplet(255, 255, 255)


def luminance(colour: ColorTriplet) -> float:
    """The relative luminance of the WCAG."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def goodness(matrix: AccuracyMatrix) -> Callable[[float | None], float | None]:
    """Where a score lies between the worst, 0, and the best, 1; None where there is none.

    Of fractions these are 0 and 1 themselves; of perplexities (by their logarithm) and losses the matrix's extremes.
    """
    scale = math.log if matrix.metric == "perplexity" else float
    known = [scale(score) for row in [matrix.zero_shot or [], *matrix.rows] for score in row if score is not None]
    low, high = (0.0, 1.0) if matrix.is_fraction or not known else (min(known), max(known))

    def share(score: float | None) -> float | None:
        if score is None or high == low:  # alone it is both
            return None if score is None else 1.0
        place = (scale(score) - low) / (high - low)
        return place if matrix.higher_is_better else 1 - place

    return share


def sparkline(shares: Sequence[float | None], most: int = 30) -> str:
    """A curve of one character per value, of which at most so many are shown, evenly taken."""
    if len(shares) > most:
        shares = [shares[round(place * (len(shares) - 1) / (most - 1))] for place in range(most)]
    highest = len(LEVELS) - 1
    return "".join(GAP if one is None else LEVELS[round(min(max(one, 0.0), 1.0) * highest)] for one in shares)
