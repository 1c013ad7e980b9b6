"""The summary of a report: what happened to a run's tasks, in plain words with the numbers that matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

from clkit.errors import UsageError
from clkit.report.general_tables import LOSS
from clkit.report.pairs import Compared, Comparison, method_names, methods
from clkit.report.runs import RunResult
from clkit.report.tables import noun_of, show_interval, show_number, show_score
from clkit.results.matrix import AccuracyMatrix
from clkit.wording import between

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905


GUESSED = ", no better than guessing"


def counted(number: int, what: str) -> str:
    """`one task`, `four tasks`, `15 tasks`."""
    word = NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"
    return f"{word} {what}{'' if number == 1 else 's'}"


def run_summary(run: RunResult) -> list[str]:
    """A few sentences about one run, the one that matters most first."""
    matrix = run.matrix
    told = {"sequential": _sequence, "multi_task": _together, "per_task": _alone, "zero_shot": _untrained}
    return [*told[matrix.protocol](matrix), *_average(matrix), *_below(matrix), *_general(run), *_uncertain(matrix)]


def _sequence(matrix: AccuracyMatrix) -> Iterator[str]:
    learned, tasks = len(matrix.rows), len(matrix.tasks)
    if not learned:
        yield f"Nothing is learned so far: the run is to learn {counted(tasks, 'task')}."
        return
    if learned == 1:
        yield f"After one task it {_knows(matrix, matrix.rows[0][0], matrix.tasks[0])}."
    losses = {task: loss for task in range(learned - 1) if (loss := _loss(matrix, task)) is not None}
    if 0 in losses:
        yield _first_task(matrix, losses[0])
    worst = max(losses, key=lambda task: losses[task], default=0)
    if losses and losses[worst] > max(losses.get(0, 0.0), 0.0):
        was, now = _learned(matrix, worst), _score(matrix, matrix.rows[-1][worst])
        was += "," if was.endswith(GUESSED) else ""
        how_much = "even more" if losses.get(0, 0.0) > 0 else "most"
        yield f"It lost {how_much} of {matrix.tasks[worst]}: from {was} to {now}{_most_lost(matrix, worst)}."
    if learned < tasks:
        yield f"The run is not finished: {learned} of {tasks} tasks are learned, and the metrics come with the last."


def _first_task(matrix: AccuracyMatrix, loss: float) -> str:
    now = matrix.rows[-1][0]
    after, first = f"After {counted(len(matrix.rows), 'task')} it", f"the first one, {matrix.tasks[0]}"
    learned = _learned(matrix, 0)
    if loss == 0 and matrix.higher_is_better and not now:
        return f"After {counted(len(matrix.rows), 'task')} it knows nothing of {first}, which it did not learn."
    if loss == 0:
        return f"{after} still {_knows(matrix, now, first)}, as when it had just learned it."
    if loss < 0:
        return f"{after} {_knows(matrix, now, first)}, which is better than when it had just learned it ({learned})."
    if matrix.higher_is_better and not now:
        said = f"{after} knows nothing of {first}, any more; when it had just learned it, it was {learned}"
    else:
        said = f"{after} still {_knows(matrix, now, first)}; when it had just learned it, it was {learned}"
    return f"{said}{_most_lost(matrix, 0)}."


def _learned(matrix: AccuracyMatrix, task: int) -> str:
    """A task's score when it was just learned, and whether that is anything: what was never known is not lost."""
    score = matrix.rows[task][task]
    guesses = [row[task] for row in matrix.guesses.values()]
    guessed = score is not None and any(guess is not None and score <= guess for guess in guesses)
    return f"{_score(matrix, score)}{GUESSED if guessed else ''}"


def _gain(matrix: AccuracyMatrix, new: float, old: float) -> float:
    return new - old if matrix.higher_is_better else old - new


def _loss(matrix: AccuracyMatrix, task: int) -> float | None:
    """How much worse a task is now than when it was just learned."""
    was, now = matrix.rows[task][task], matrix.rows[-1][task]
    return None if was is None or now is None else _gain(matrix, was, now)


def _score(matrix: AccuracyMatrix, score: float | None, *, signed: bool = False) -> str:
    return f"{show_score(score, matrix.metric, signed=signed)}{' %' if matrix.is_fraction else ''}"


def _knows(matrix: AccuracyMatrix, score: float | None, task: str) -> str:
    """`answers 62.0 % of topics`, or the same of scores that are no answers."""
    if not matrix.is_fraction:
        return f"has a {matrix.metric} of {_score(matrix, score)} on {task}"
    if _is_share(matrix):
        return f"answers {_score(matrix, score)} of {task}"
    return f"has a {noun_of(matrix.metric)} of {_score(matrix, score)} on {task}"


def _is_share(matrix: AccuracyMatrix) -> bool:
    """Whether a score is the share of examples that are answered rightly."""
    return noun_of(matrix.metric).startswith("accuracy")


def _most_lost(matrix: AccuracyMatrix, task: int) -> str:
    """While which later task most of this one was lost; nothing where that is unknown, or there was only one."""
    scores = [(row, matrix.rows[row][task]) for row in range(task, len(matrix.rows))]
    known = [(row, score) for row, score in scores if score is not None]
    drops = {row: _gain(matrix, before, now) for (_, before), (row, now) in pairwise(known)}
    if len(drops) < 2:
        return ""
    worst = max(drops, key=lambda row: drops[row])
    lost = sum(drop for drop in drops.values() if drop > 0)
    share = "all" if drops[worst] >= lost * (1 - 1e-9) else "most" if drops[worst] > lost / 2 else "the largest part"
    return f"; {share} was lost while learning {matrix.tasks[worst]}"


def _average(matrix: AccuracyMatrix) -> Iterator[str]:
    average = matrix.metrics()["average_accuracy"].value
    if average is None:
        return
    said = f"On average over its tasks it ends at {_score(matrix, average)}"
    chance = [guess for guess in matrix.guesses.get("majority", []) if guess is not None]
    if len(chance) == len(matrix.tasks):
        said += f"; always giving the most frequent label would reach {_score(matrix, fmean(chance))}"
    yield f"{said}."


def _together(matrix: AccuracyMatrix) -> Iterator[str]:
    if matrix.in_progress:
        yield "It is to learn all tasks together, and is not finished."
    else:
        yield (
            f"It learned its {counted(len(matrix.tasks), 'task')} together, so nothing could be forgotten: an upper "
            "bound for those that learn one after another."
        )


def _alone(matrix: AccuracyMatrix) -> Iterator[str]:
    trained = f"{len(matrix.rows)} of {len(matrix.tasks)} are trained"
    yield (
        f"Each task has a model of its own ({trained}), so nothing could be forgotten: it shows how well each task can "
        "be learned."
    )


def _untrained(matrix: AccuracyMatrix) -> Iterator[str]:
    yield f"Nothing was learned: these are the scores of the model as it came, on {counted(len(matrix.tasks), 'task')}."


def _below(matrix: AccuracyMatrix) -> Iterator[str]:
    if names := list(matrix.below_majority):
        yield (
            f"Learned to less than always giving the most frequent label scores: {', '.join(names)}. More epochs or "
            "another rate may teach it."
        )


def _general(run: RunResult) -> Iterator[str]:
    """What became of the held-out loss."""
    change = (run.general.change or {}).get(LOSS) if run.general else None
    if change is None or run.general is None:
        return
    first, last = (show_number(run.general.stages[at].values[LOSS], fraction=False, decimals=3) for at in (0, -1))
    what = "it knows less of that now" if change > 0 else "none of that was lost"
    yield f"On text that no task taught its loss went from {first} to {last}: {what}."


def _uncertain(matrix: AccuracyMatrix) -> Iterator[str]:
    """How far a share of so few right answers may lie from that of all such examples."""
    if not _is_share(matrix):
        return
    half = 100 * 1.96 * math.sqrt(0.25 / min(matrix.counts))
    yield (
        f"Each task is tested on {between(matrix.counts)} examples, so a single score may lie up to {half:.0f} points "
        "from that on all such examples (95 %)."
    )


def runs_summary(compared: Sequence[Compared], paired: Sequence[Comparison], remarks: Sequence[str]) -> list[str]:
    """A few sentences about runs side by side.

    Args:
        compared: the runs, by the names that they are shown under.
        remarks: why methods are not compared, where they might be.
    """
    finished = [run for run in compared if not run.matrix.in_progress]
    said = []
    if len({(tuple(sorted(run.matrix.tasks)), run.matrix.metric) for run in compared}) > 1:
        said.append("The runs have different tasks or metrics, so their averages do not compare.")
    elif len(finished) > 1:
        said += _best(finished)
        said += map(_tested, paired)
        if not paired and not any("compared" in remark for remark in remarks):
            said.append(
                "No three pairs of runs share their seeds and order, so no test says whether differences are more "
                "than chance."
            )
    if unfinished := [run.name for run in compared if run.matrix.in_progress]:
        said.append(f"Not finished: {', '.join(unfinished)}.")
    return said


def _best(finished: Sequence[Compared]) -> Iterator[str]:
    matrix = finished[0].matrix
    try:
        found = methods(finished)
        groups = dict(zip(method_names(found), (list(one.runs.values()) for one in found), strict=True))
    except UsageError:  # the same recipe and seed twice
        groups = {run.name: [run] for run in finished}
    what = "method" if len(groups) < len(finished) else "run"
    if len(groups) == 1:
        return

    def ranked(metric: str) -> list[tuple[float, str]]:
        values = {name: [run.matrix.metrics()[metric].value for run in runs] for name, runs in groups.items()}
        known = [(fmean(of), name) for name, own in values.items() if (of := [one for one in own if one is not None])]
        return sorted(known, reverse=metric == "average_accuracy" and matrix.higher_is_better)

    ends = ranked("average_accuracy")
    if len(ends) > 1:
        (best, name), *_, (worst, other) = ends
        yield (
            f"Of {counted(len(ends), what)} {name} ends best, at {_score(matrix, best)} on average over tasks"
            f"{' and runs' if what == 'method' else ''}; {other} ends last, at {_score(matrix, worst)}."
        )
    forgot = ranked("forgetting")
    if len(forgot) > 1:
        (least, name), *_, (most, other) = forgot
        points = " points" if matrix.is_fraction else ""
        yield (
            f"{name} forgets least, {show_score(least, matrix.metric)}{points} of a task on average, and {other} most, "
            f"{show_score(most, matrix.metric)}."
        )


def _tested(one: Comparison) -> str:
    metric = one.metrics.get("average_accuracy")
    if metric is None or metric.mean is None or metric.interval is None or metric.p is None:
        return f"{one.method} against {one.against}: {metric.note if metric and metric.note else 'no average'}."
    difference = show_score(metric.mean, one.scored_by, signed=True)
    interval = show_interval(metric.interval, one.scored_by, signed=True)
    p, corrected = (metric.p, "") if metric.holm is None else (metric.holm, " after Holm's correction")
    sure = "more than chance explains" if p < 0.05 else "this may still be chance"
    return (
        f"{one.method} ends {difference} from {one.against} on average, over {metric.n} pairs of runs (95 % interval "
        f"{interval}, p = {p:.3f}{corrected}): {sure}."
    )
