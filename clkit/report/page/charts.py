"""Line charts and scatter plots as numbers on a canvas, which `templates/charts.html` draws as SVG.

Colours and fonts are those of the page, so that one drawing serves light and dark ground, phone and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: Space around the plot for its ticks: left, right, top, bottom.
MARGINS = (34, 10, 10, 20)

#: How far labels beside points lie apart at least.
LINE = 12
Point = tuple[float, float]


class Tick(NamedTuple):
    """A mark on an axis, by its place on the canvas."""

    at: float
    label: str


class Dot(NamedTuple):
    """A point that stands out.

    Attributes:
        label: what is written beside it, at the height ``label_y``.
        told: what a pointer that rests on it is told.
    """

    x: float
    y: float
    label: str
    told: str
    label_y: float


class Guide(NamedTuple):
    """A straight line of a kind that the page's style knows."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


@dataclass
class Plot:
    """A drawing in a frame of `width` × `height` units.

    Attributes:
        about: what it shows, in words with the numbers that matter: for those who cannot see it.
        across: what lies to the right, where it has to be said.
        texts: words at places of the canvas.
        paths: lines through the data, as the points of a polyline; the faint ones first.
    """

    title: str
    about: str
    width: int
    height: int
    x: Scale
    y: Scale
    note: str = ""
    across: str = ""
    texts: list[tuple[float, float, str]] = field(default_factory=list)
    paths: list[tuple[str, str]] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    guides: list[Guide] = field(default_factory=list)
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)

    def line(self, points: Sequence[Point], kind: str = "line") -> None:
        """Join the points, in their order."""
        if points:
            placed = " ".join(f"{self.x.at(x)},{self.y.at(y)}" for x, y in points)
            self.paths.append((kind, placed))

    def dot(self, x: float, y: float, told: str, label: str = "") -> None:
        """A point that stands out. Its label gives way upwards to those that are there."""
        across, up = self.x.at(x), self.y.at(y)
        label_y = up
        for other in sorted((dot for dot in self.dots if abs(dot.x - across) < 18), key=lambda dot: -dot.label_y):
            if label and abs(other.label_y - label_y) < LINE:
                label_y = other.label_y - LINE
        self.dots.append(Dot(across, up, label, told, label_y))

    def text(self, x: float, y: float, words: str) -> None:
        """Words that begin above a point."""
        self.texts.append((self.x.at(x), self.y.at(y) - 9, words))

    def guide(self, start: Point, end: Point, kind: str) -> None:
        """A straight line, behind the data."""
        (x1, y1), (x2, y2) = start, end
        self.guides.append(Guide(self.x.at(x1), self.y.at(y1), self.x.at(x2), self.y.at(y2), kind))


@dataclass(frozen=True)
class Scale:
    """Where the values of an axis lie on the canvas."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value, to a tenth."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, values: Sequence[float], show: Callable[[float], str]) -> list[Tick]:
        """Marks at these values."""
        return [Tick(self.at(value), show(value)) for value in values]


def framed(
    title: str,
    about: str,
    size: tuple[int, int],
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    note: str = "",
    across: str = "",
) -> Plot:
    """An empty plot over these ranges of values."""
    width, height = size
    left, right, top, bottom = MARGINS
    below = bottom + (16 if across else 0)
    return Plot(
        title,
        about,
        width,
        height,
        Scale(*x, left, width - right),
        Scale(*y, height - below, top),
        note,
        across,
    )


def round_steps(low: float, high: float, most: int = 4) -> list[float]:
    """At most so many round numbers, evenly apart, from at or above ``low`` to at or below ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def plain_number(value: float) -> str:
    """A number at an axis: three digits that count."""
    return f"{value + 0.0:.3g}".replace("e+0", "e").replace("e-0", "e-")
