"""Charts: where values lie on the canvas, what is thinned, and what is said in words."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean

import pytest

from clkit.report.page.charts import Scale, framed, round_steps
from clkit.report.page.curves import POINTS, kept_of_tasks, kept_plot, task_curves, term_plots, thin
from clkit.results.matrix import AccuracyMatrix

MATRIX = AccuracyMatrix(
    ["a", "b", "c"], [10] * 3, zero_shot=[0.1] * 3, rows=[[0.9, 0, 0], [0.5, 0.8, 0], [0.4, 0.7, 1]]
)


def test_a_scale_is_linear_and_may_be_turned_round():
    assert [Scale(0, 10, 100, 0).at(value) for value in (0, 5, 10)] == [100, 50, 0]
    assert Scale(3, 3, 0, 10).at(3) == 0


@pytest.mark.parametrize(
    ("low", "high", "most", "steps"),
    [
        (0, 1, 3, [0, 0.5, 1]),
        (0, 15, 6, [0, 5, 10, 15]),
        (2.1, 3.9, 4, [3]),
        (7, 7, 4, [7]),
        (0, 1e-3, 3, [0, 5e-4, 1e-3]),
    ],
)
def test_round_steps(low: float, high: float, most: int, steps: list[float]):
    found = round_steps(low, high, most)
    assert len(found) <= most
    assert found == pytest.approx(steps)


def test_a_curve_per_task():
    curves = task_curves(MATRIX)
    assert [plot.title for plot in curves] == ["a", "b", "c"]
    assert curves[0].about == "a: 10.0 before any training; 90.0 after a; 50.0 after b; 40.0 after c"
    assert [kind for kind, _ in curves[1].paths] == ["faint", "line"]
    (_, before), (_, after) = curves[1].paths
    assert len(before.split()) == 3  # zero-shot, after a, after b, where it was learned
    assert after.split()[0] == before.split()[-1]
    assert [dot.told for dot in curves[1].dots] == ["80.0 after b", "70.0 after c"]


def test_what_was_learned_and_what_is_left():
    kept = kept_of_tasks(MATRIX)
    assert [(one.learned, one.left) for one in kept] == [(0.9, 0.4), (0.8, 0.7), (1, 1)]
    plot = kept_plot(kept, MATRIX, "task")
    (diagonal,) = plot.guides
    on_it = plot.dots[2]  # of the last task nothing is lost
    assert (on_it.x, on_it.y) == (diagonal.x2, diagonal.y2)
    assert plot.dots[0].y > plot.dots[1].y  # downwards on the canvas


def test_labels_of_points_at_one_place_lie_apart():
    plot = framed("", "", (100, 100), (0, 1), (0, 1))
    for number in range(4):
        plot.dot(0.5, 0.5, "", str(number))
    heights = sorted(dot.label_y for dot in plot.dots)
    assert min(b - a for a, b in pairwise(heights)) >= 11


def test_thinning_keeps_the_mean_and_the_bound():
    points = [(float(x), math.sin(x)) for x in range(1000)]
    thinned = list(thin(points, 100))
    assert len(thinned) == 100
    assert fmean(y for _, y in thinned) == pytest.approx(fmean(y for _, y in points))
    assert list(thin(points[:7], 100)) == points[:7]


def step(task: str, number: int, **terms: object) -> dict[str, object]:
    return {"event": "step", "task": task, "step": number, "learning_rate": 0.1, "grad_norm": 1.0, **terms}


def test_terms_go_on_over_tasks():
    log = [step("a", number, task_loss=2.0) for number in (5, 10)]
    log += [{"event": "evaluated", "stage": "a"}, {"odd": 1}]
    log += [step("b", 5, task_loss=1.0, ewc_penalty=0.5), step("b", 10, task_loss="nan", ewc_penalty=0.25)]
    loss, penalty = term_plots(log)
    assert (loss.title, penalty.title) == ("task_loss", "ewc_penalty")
    assert loss.x.high == 20
    assert loss.note == "1 values were not finite"
    assert "a from 2 to 2; b from 1 to 1" in loss.about
    (border,) = loss.guides
    assert border.x1 == loss.x.at(10)


def test_a_task_is_as_long_as_it_said_whatever_was_logged():
    log: list[dict[str, object]] = []
    for task in ("a", "b"):
        log += [{"event": "task_started", "task": task, "steps": 8}, step(task, 1, task_loss=2.0)]
    log += [{"event": "task_started", "task": "b", "steps": 8}]  # gone on with after a kill
    (loss,) = term_plots(log)
    assert loss.x.high == 16
    assert [border.x1 for border in loss.guides] == [loss.x.at(8)]
    assert [dot.x for dot in loss.dots] == [loss.x.at(1), loss.x.at(9)]


def test_a_long_log_is_thinned():
    log = [step(task, number, task_loss=1 / number) for task in "ab" for number in range(1, 5001)]
    (plot,) = term_plots(log)
    assert sum(len(points.split()) for _, points in plot.paths) <= POINTS
    assert "the mean of 42 lines" in plot.note


@pytest.mark.parametrize("log", [[], [{"event": "step"}], [step("a", 1)], [step("a", 1, task_loss="inf")]])
def test_nothing_to_show(log: list[dict[str, object]]):
    assert term_plots(log) == []


def test_a_share_has_the_whole_range():
    (plot,) = term_plots([step("a", 1, migu_masked_share=0.69), step("a", 2, migu_masked_share=0.7)])
    assert (plot.y.low, plot.y.high) == (0, 1)
