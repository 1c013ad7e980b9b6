"""Scores as heat: a colour for each level, light and dark, with the ink that is read best on it; and tables of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from clkit.report.heat import goodness
from clkit.report.tables import BASELINES, CHANCE, show_score
from clkit.results.kinds import Row
from clkit.results.matrix import AccuracyMatrix

#: Levels of heat beside 0. One hue from pale to deep (on dark ground: from deep to pale), so that lightness alone tells
#: them apart; the ends are those of light and dark ground.
LEVELS = 20
GROUNDS = {"light": ("#eef4fb", "#5b9bd5", "#0b3c6f"), "dark": ("#18222e", "#2f6ea5", "#b5dbff")}
INKS = ("#000000", "#ffffff")


class Shade(NamedTuple):
    """The colours of a level: behind a number, and of the number."""

    ground: str
    ink: str


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def luminance(colour: str) -> float:
    """The relative luminance of `#rrggbb` (WCAG 2.2), 0 to 1."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2), 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def shades(ground: str) -> list[Shade]:
    """The colours of the levels 0 to `LEVELS` on light or dark ground."""
    stops = [_channels(colour) for colour in GROUNDS[ground]]
    found = []
    for level in range(LEVELS + 1):
        place = level / LEVELS * (len(stops) - 1)
        first = min(int(place), len(stops) - 2)
        mixed = [round(a + (b - a) * (place - first)) for a, b in zip(stops[first], stops[first + 1], strict=True)]
        colour = "#{:02x}{:02x}{:02x}".format(*mixed)
        # Of black and white one always has a contrast of 4.58 or more.
        found.append(Shade(colour, max(INKS, key=partial(contrast, colour))))
    return found


@dataclass(frozen=True)
class Cell:
    """A score to show.

    Attributes:
        level: of heat; None where nothing was measured.
        marks: `learned` where the task was just learned, `early` before that, `guess` where guessing does as well.
    """

    text: str
    level: int | None
    marks: tuple[str, ...] = ()


class Line(NamedTuple):
    """A row of the table; `guess` says that it is no score but what guesses would have."""

    label: str
    cells: list[Cell]
    guess: bool = False


@dataclass(frozen=True)
class Heat:
    """A matrix as a table of cells."""

    caption: str
    tasks: list[str]
    lines: list[Line]

    @property
    def marks(self) -> set[str]:
        """Those that any cell has, for the legend."""
        return {mark for line in self.lines for cell in line.cells for mark in cell.marks}


def heat(matrix: AccuracyMatrix) -> Heat:
    """The matrix with what guesses would score below it, where that is known."""
    rows: list[tuple[int, str, Row]] = [] if matrix.zero_shot is None else [(0, "zero-shot", matrix.zero_shot)]
    about = "A row per task learned, a column per task tested"
    if matrix.protocol == "sequential":
        rows += [(number, f"after {matrix.tasks[number - 1]}", row) for number, row in enumerate(matrix.rows, 1)]
    else:
        about, label = BASELINES[matrix.protocol]
        rows += [(len(matrix.tasks), label, matrix.outcome)] if label else []
    unit = ", in percent" if matrix.is_fraction else "" if matrix.higher_is_better else "; lower is better"
    level = _levels(matrix)
    sequential = matrix.protocol == "sequential"
    lines = [
        Line(
            label,
            [
                Cell(show_score(score, matrix.metric), level(score), _marks(matrix, number, task, score, sequential))
                for task, score in enumerate(row, 1)
            ],
        )
        for number, label, row in rows
    ]
    for guess, row in matrix.guesses.items():
        cells = [Cell(show_score(score, matrix.metric), level(score)) for score in row]
        lines.append(Line(CHANCE[guess], cells, guess=True))
    return Heat(f"{about[0].upper()}{about[1:]}: {matrix.metric.replace('_', ' ')}{unit}", matrix.tasks, lines)


def _marks(matrix: AccuracyMatrix, learned: int, task: int, score: float | None, sequential: bool) -> tuple[str, ...]:
    guesses = [row[task - 1] for row in matrix.guesses.values()]
    highest = max((guess for guess in guesses if guess is not None), default=None)
    found = {
        "learned": sequential and learned == task,
        "early": sequential and learned < task,
        "guess": score is not None and highest is not None and score <= highest,
    }
    return tuple(mark for mark, holds in found.items() if holds)


def _levels(matrix: AccuracyMatrix) -> Callable[[float | None], int | None]:
    """The level of a score: of a fraction its size, of others where it lies between the worst and the best."""
    share = goodness(matrix)

    def level(score: float | None) -> int | None:
        place = share(score)
        return None if place is None else round(LEVELS * place)

    return level
