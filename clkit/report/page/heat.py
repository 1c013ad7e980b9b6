"""Scores as heat: a colour for each level, light and dark, with the ink that is read best on it; and tables of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich.color import Color

from clkit.report.heat import between, goodness, ink_on
from clkit.report.tables import BASELINES, CHANCE, show_score
from clkit.results.kinds import Row
from clkit.results.matrix import AccuracyMatrix

#: Levels of heat beside 0. One hue from pale to deep (on dark ground: from deep to pale), so that lightness alone tells
#: them apart; the ends are those of light and dark ground.
LEVELS = 20
GROUNDS = {"light": ("#eef4fb", "#5b9bd5", "#0b3c6f"), "dark": ("#18222e", "#2f6ea5", "#b5dbff")}


class Shade(NamedTuple):
    """The colours of a level: behind a number, and of the number."""

    ground: str
    ink: str


def shades(ground: str) -> list[Shade]:
    """The colours of the levels 0 to `LEVELS` on light or dark ground."""
    stops = [Color.parse(colour).get_truecolor() for colour in GROUNDS[ground]]
    found = []
    for place in range(LEVELS + 1):
        colour = between(stops, place / LEVELS)
        found.append(Shade(colour.hex, ink_on(colour).hex))
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
    good = goodness(matrix)
    sequential = matrix.protocol == "sequential"
    lines = [
        Line(
            label,
            [
                Cell(
                    show_score(score, matrix.metric),
                    level(good(score)),
                    _marks(matrix, number, task, score, sequential),
                )
                for task, score in enumerate(row, 1)
            ],
        )
        for number, label, row in rows
    ]
    for guess, row in matrix.guesses.items():
        cells = [Cell(show_score(score, matrix.metric), level(good(score))) for score in row]
        lines.append(Line(CHANCE[guess], cells, guess=True))
    return Heat(f"{about[0].upper()}{about[1:]}: {matrix.metric.replace('_', ' ')}{unit}", matrix.tasks, lines)


def level(share: float | None) -> int | None:
    """The level of what lies at this share, 0 to 1, of the way from the worst to the best."""
    return None if share is None else round(LEVELS * min(max(share, 0.0), 1.0))


def _marks(matrix: AccuracyMatrix, learned: int, task: int, score: float | None, sequential: bool) -> tuple[str, ...]:
    guesses = [row[task - 1] for row in matrix.guesses.values()]
    highest = max((guess for guess in guesses if guess is not None), default=None)
    found = {
        "learned": sequential and learned == task,
        "early": sequential and learned < task,
        "guess": score is not None and highest is not None and score <= highest,
    }
    return tuple(mark for mark, holds in found.items() if holds)
