"""What a run's scores and its log look like: a curve per task, learning against keeping, the loss's terms by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from clkit.report.page.charts import Plot, Point, framed, plain_number, round_steps
from clkit.report.tables import show_number, show_score
from clkit.results.matrix import AccuracyMatrix

SMALL, WIDE, SQUARE = (224, 132), (520, 170), (340, 316)
#: Points of a term's line at most; where a run logged more, each is the mean of its neighbours.
POINTS = 240
#: What a line of the log says beside the terms of the loss and the strategies' own values.
BESIDE = frozenset({"event", "task", "stage", "step", "learning_rate", "grad_norm", "skipped", "best_step"})


def _span(matrix: AccuracyMatrix) -> tuple[float, float]:
    """The range of scores that all of a run's charts show."""
    if matrix.is_fraction:
        return 0.0, 1.0
    known = [score for row in [matrix.zero_shot or [], *matrix.rows] for score in row if score is not None]
    return min(known, default=0.0), max(known, default=1.0)


def axis_label(matrix: AccuracyMatrix, value: float) -> str:
    """A score at an axis: percent of a fraction."""
    return show_number(value, fraction=True, decimals=0) if matrix.is_fraction else plain_number(value)


def task_curves(matrix: AccuracyMatrix) -> list[Plot]:
    """A small chart per task: its score after each training, from which it was learned a full line, before a faint one.

    Only a sequence has such curves.
    """
    if matrix.protocol != "sequential" or len(matrix.rows) < 2:
        return []
    rows = [] if matrix.zero_shot is None else [(0, matrix.zero_shot)]
    rows += enumerate(matrix.rows, 1)
    return [_task_curve(matrix, place, rows) for place in range(len(matrix.tasks))]


def _task_curve(matrix: AccuracyMatrix, place: int, rows: Sequence[tuple[int, Sequence[float | None]]]) -> Plot:
    known = [(stage, score) for stage, row in rows if (score := row[place]) is not None]
    learned, task = place + 1, matrix.tasks[place]
    told = [f"{show_score(score, matrix.metric)} {_when(matrix, stage)}" for stage, score in known]
    about = f"{task}: {'; '.join(told) or 'not tested'}"
    low, high = _span(matrix)
    plot = framed(task, about, SMALL, (rows[0][0], len(matrix.tasks)), (low, high))
    for guess in sorted({guess for row in matrix.guesses.values() if (guess := row[place]) is not None}):
        plot.guide((plot.x.low, guess), (plot.x.high, guess), "chance")
    plot.line([(stage, score) for stage, score in known if stage <= learned], "faint")
    plot.line([(stage, score) for stage, score in known if stage >= learned])
    for stage, score in known:
        if stage in (learned, known[-1][0]):
            plot.dot(stage, score, f"{show_score(score, matrix.metric)} {_when(matrix, stage)}")
    stages = [stage for stage in round_steps(plot.x.low, plot.x.high, 6) if stage == int(stage)]
    plot.x_ticks = plot.x.ticks(stages, lambda stage: f"{stage:.0f}")
    plot.y_ticks = plot.y.ticks(round_steps(low, high, 3), lambda value: axis_label(matrix, value))
    return plot


def _when(matrix: AccuracyMatrix, stage: int) -> str:
    return f"after {matrix.tasks[stage - 1]}" if stage else "before any training"


class Kept(NamedTuple):
    """What was learned and what was left at the end: of a task, or of a run on average."""

    name: str
    learned: float
    left: float


def kept_of_tasks(matrix: AccuracyMatrix) -> list[Kept]:
    """Each task's score when it was just learned and the last one, where both are known."""
    if matrix.protocol != "sequential" or len(matrix.rows) < 2:
        return []
    pairs = [
        (task, matrix.rows[place][place], matrix.rows[-1][place])
        for place, task in enumerate(matrix.tasks)
        if place < len(matrix.rows)
    ]
    return [Kept(task, one, two) for task, one, two in pairs if one is not None and two is not None]


def kept_plot(kept: Sequence[Kept], scored_by: AccuracyMatrix, what: str) -> Plot:
    """A point for each: learned to the right, kept upwards. On the diagonal nothing was lost.

    Args:
        scored_by: a matrix with the same kind of scores.
        what: `task` or `run`.
    """
    values = [value for one in kept for value in (one.learned, one.left)]
    low, high = min(values), max(values)
    if scored_by.is_fraction:  # to the tens
        low, high = math.floor(low * 10) / 10, math.ceil(high * 10) / 10
    metric = scored_by.metric
    told = [
        f"{one.name}: learned {show_score(one.learned, metric)}, left {show_score(one.left, metric)}" for one in kept
    ]
    plot = framed(
        "↑ at the end",
        f"A point per {what}. {'; '.join(told)}",
        SQUARE,
        (low, high),
        (low, high),
        across="just learned",
    )
    plot.guide((low, low), (high, high), "diagonal")
    for number, (one, said) in enumerate(zip(kept, told, strict=True), 1):
        plot.dot(one.learned, one.left, said, str(number))
    ticks = round_steps(low, high, 5)
    plot.x_ticks = plot.x.ticks(ticks, lambda value: axis_label(scored_by, value))
    plot.y_ticks = plot.y.ticks(ticks, lambda value: axis_label(scored_by, value))
    return plot


class _Term:
    """One value that the log names, by its step over the whole run."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[Point]] = {}
        self.infinite = 0


def term_plots(log: Iterable[Mapping[str, Any]]) -> list[Plot]:
    """A chart for each term of the loss and each value that a strategy logged, over the steps of the run."""
    terms: dict[str, _Term] = {}
    starts: dict[str, int] = {}  # the step of the run that each task begins after
    last = 0
    for line in log:
        task, event = line.get("task"), line.get("event")
        # The last line of a task is seldom of its last step, so where the next one begins is told by its beginning.
        step = line.get({"task_started": "steps", "step": "step", "validated": "step"}.get(str(event), ""))
        if not isinstance(task, str) or type(step) is not int:
            continue
        at = starts.setdefault(task, last) + step
        last = max(last, at)
        if event == "task_started":
            continue
        for name, value in line.items():
            if name in BESIDE:
                continue
            term = terms.setdefault(name, _Term())
            if isinstance(value, int | float) and math.isfinite(value):
                term.tasks.setdefault(task, []).append((at, float(value)))
            else:  # the log writes NaN and infinity as words
                term.infinite += 1
    return [_term_plot(name, term, starts, last) for name, term in terms.items() if term.tasks]


def _term_plot(name: str, term: _Term, starts: Mapping[str, int], last: int) -> Plot:
    thinned = {task: list(thin(points, max(2, POINTS // len(starts)))) for task, points in term.tasks.items()}
    values = [value for points in thinned.values() for _, value in points]
    low, high = min(values), max(values)
    if name.endswith("share"):
        low, high = 0.0, 1.0
    elif low < high / 2 or high - low < abs(high) / 20:
        low, high = min(low, 0.0), max(high, 0.0)
    said = [
        f"{task} from {plain_number(points[0][1])} to {plain_number(points[-1][1])}" for task, points in thinned.items()
    ]
    merged = max(-(-len(points) // len(thinned[task])) for task, points in term.tasks.items())
    notes = [f"each point the mean of {merged} lines of the log"] if merged > 1 else []
    notes += [f"{term.infinite:,} values were not finite"] if term.infinite else []
    plot = framed(
        name, f"{name} over {last:,} steps: {'; '.join(said)}", WIDE, (0, last), (low, high), note=", ".join(notes)
    )
    for start in list(starts.values())[1:]:
        plot.guide((start, low), (start, high), "border")
    for task, points in thinned.items():
        plot.line(points)
        if len(points) == 1:
            plot.dot(*points[0], f"{task}: {plain_number(points[0][1])}")
    plot.x_ticks = plot.x.ticks(round_steps(0, last, 6), lambda value: f"{value:,.0f}")
    plot.y_ticks = plot.y.ticks(round_steps(low, high), plain_number)
    return plot


def thin(points: Sequence[Point], most: int) -> Iterator[Point]:
    """At most so many points: each the mean of as many neighbours, the last of what is left."""
    size = -(-len(points) // most)
    edges = [*range(0, len(points), size), len(points)]
    for start, end in pairwise(edges):
        part = points[start:end]
        yield fmean(x for x, _ in part), fmean(y for _, y in part)
