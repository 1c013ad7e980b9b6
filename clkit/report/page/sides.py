"""Runs and methods side by side: a row per run, means over seeds with their intervals, and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clkit.report.page.charts import Plot, framed, round_steps
from clkit.report.page.curves import axis_label
from clkit.report.pairs import Comparison
from clkit.report.runs import ComparedRuns
from clkit.report.tables import CUT, HEADS, SIGNED, name_of, noun_of, show_interval, show_score
from clkit.results.metrics import Metric
from clkit.results.spread import FEWEST, Aggregate, smallest_p

Rows = list[list[str]]


class Tests(NamedTuple):
    """One method against another, a row per metric."""

    title: str
    about: str
    rows: Rows


class SideBySide(NamedTuple):
    """What runs have to show beside each other, as texts; the first of a row is what it is about."""

    heads: list[str]
    runs: Rows
    means: Rows
    about_means: str
    intervals: Plot | None
    tests: list[Tests]


def side_by_side(compared: ComparedRuns, names: Sequence[str]) -> SideBySide:
    """What the runs have to show, under these names."""
    kinds = list(dict.fromkeys(run.matrix.metric for run in compared.runs))
    noun = noun_of(kinds[0]) if len(kinds) == 1 else "score"
    heads = [head.format(noun=noun).replace("-\n", "").replace("\n", " ") for head in HEADS.values()]
    scored_by = {run.name: run.matrix.metric for run in compared.runs}
    called = dict(zip(scored_by, names, strict=True))
    rows = [
        [name if len(kinds) == 1 else f"{name} ({run.matrix.metric})", *_values(run.metrics, run.matrix.metric)]
        for name, run in zip(names, compared.runs, strict=True)
    ]
    for one in compared.baselines():
        rows.append([f"{one.role}: {one.run}", *_values(one.metrics, one.scored_by)])
    means = []
    for group in compared.means:
        label = group.label or "all"
        metrics = [_mean(group.metrics[key], scored_by[group.runs[0]], key) for key in HEADS]
        means.append([f"{label}\n{', '.join(called[run] for run in group.runs)}", *metrics])
    about = f"Below a mean stands its 95 % interval, for {FEWEST} seeds or more."
    if any(one.interval and one.interval.cut for group in compared.means for one in group.metrics.values()):
        about += f" The {CUT}."
    return SideBySide(heads, rows, means, about, _intervals(compared), [_tests(one) for one in compared.paired])


def _intervals(compared: ComparedRuns) -> Plot | None:
    """Each method's average at the end: its runs as points, and the 95 % interval of their mean, if any, as a line."""
    matrices = {run.name: run.matrix for run in compared.runs}
    first = compared.runs[0].matrix
    groups = [group for group in compared.means if group.metrics["average_accuracy"].mean is not None]
    if not groups or len({matrix.metric for matrix in matrices.values()}) > 1:
        return None
    found = [(group.label or "all", group.metrics["average_accuracy"], group.runs) for group in groups]
    averages = {name: matrix.metrics()["average_accuracy"].value for name, matrix in matrices.items()}
    values = {name: value for name, value in averages.items() if value is not None}
    points = [values[run] for group in groups for run in group.runs]
    ends = [end for _, one, _ in found if one.interval for end in (one.interval.low, one.interval.high)]
    low, high = min([*ends, *points]), max([*ends, *points])
    shown = [show_score(one.mean, first.metric) for _, one, _ in found]
    about = "; ".join(f"{label}: {mean} over {one.n} runs" for (label, one, _), mean in zip(found, shown, strict=True))
    title = f"{name_of('average_accuracy', first.metric).replace('_', ' ')} at the end"
    plot = framed(title, about, (520, 30 + 36 * len(found)), (low, high), (0, len(found)))
    for place, ((label, one, runs), mean) in enumerate(zip(found, shown, strict=True)):
        y = len(found) - place - 0.75
        plot.text(low, y, f"{label}: {mean}")
        if one.interval:
            plot.guide((one.interval.low, y), (one.interval.high, y), "whisker")
        for run in runs:
            plot.dot(values[run], y, f"{run}: {show_score(values[run], first.metric)}")
    plot.x_ticks = plot.x.ticks(round_steps(low, high, 6), lambda value: axis_label(first, value))
    return plot


def _values(metrics: Mapping[str, Metric], scored_by: str) -> list[str]:
    return [show_score(metrics[key].value, scored_by, signed=key in SIGNED) for key in HEADS]


def _mean(one: Aggregate, scored_by: str, key: str) -> str:
    signed = key in SIGNED
    mean = show_score(one.mean, scored_by, signed=signed)
    return f"{mean}\n{show_interval(one.interval, scored_by, signed=signed)}" if one.interval else mean


def _tests(one: Comparison) -> Tests:
    rows = []
    for name, kind, metric in one.numbers():
        if metric.means is None or metric.interval is None or metric.p is None:
            continue
        values = [show_score(value, kind, signed=name in SIGNED) for value in metric.means]
        difference = show_score(metric.mean, kind, signed=True)
        interval = show_interval(metric.interval, kind, signed=True)
        tested = [f"{p:.3f}" for p in (metric.p, metric.p if metric.holm is None else metric.holm)]
        rows.append([name_of(name, kind).replace("_", " "), *values, difference, interval, *tested])
    n = len(one.pairs)
    pairs = "1 pair" if n == 1 else f"{n} pairs"
    about = f"{pairs} of runs with the same seeds and order; they differ in {', '.join(one.differs_in)}."
    if n >= FEWEST and smallest_p(n) > 0.05:
        about += f" Of {n} pairs p is never below {smallest_p(n):.3f}."
    if any(metric.interval and metric.interval.cut for _, _, metric in one.numbers()):
        about += f" The {CUT}."
    return Tests(f"{one.method} against {one.against}", about, rows)
