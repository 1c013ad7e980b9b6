"""Runs side by side: rows, means with their intervals, tests, and the chart of methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.report.page.sides import SideBySide, side_by_side
from clkit.report.runs import compare_runs
from clkit.results.spread import t_interval
from tests.report.page.synthetic import MIGU, PLAIN, make_run


def sides(folder: Path, finals: dict[str, list[float]]) -> SideBySide:
    strategies = {"plain": PLAIN, "migu": MIGU}
    runs = [
        make_run(folder / f"{name}-{seed}", ("a", "b"), seed=seed, strategies=strategies[name], keep=keep)
        for name, keeps in finals.items()
        for seed, keep in enumerate(keeps, 1)
    ]
    compared = compare_runs({str(run.path): (run, run.read_matrix()) for run in runs}, [])
    return side_by_side(compared, [run.path.name for run in runs])


def test_means_intervals_and_tests(tmp_path: Path):
    found = sides(tmp_path, {"plain": [0.1, 0.2, 0.3], "migu": [0.6, 0.8, 0.7]})
    assert [row[0] for row in found.runs[:6]] == ["plain-1", "plain-2", "plain-3", "migu-1", "migu-2", "migu-3"]
    assert found.heads[0] == "average accuracy"
    assert found.runs[0][1] == "49.5"  # of 0.09 and 0.9
    averages = [45 * (1 + keep) for keep in (0.1, 0.2, 0.3)]
    low, high, _ = t_interval(averages)
    assert found.means[0][1] == f"54.0\n{low:.1f} to {high:.1f}"
    (test,) = found.tests
    assert test.title == "migu against plain"
    assert test.rows[0][:4] == ["average accuracy", "76.5", "54.0", "+22.5"]
    assert "p is never below 0.250" in test.about


def test_the_chart_has_a_line_per_method_and_a_point_per_run(tmp_path: Path):
    plot = sides(tmp_path, {"plain": [0.2, 0.21, 0.22], "migu": [0.6, 0.62, 0.64]}).intervals
    assert plot is not None
    assert [words for *_, words in plot.texts] == ["strategies none: 54.5", "strategies migu: 72.9"]
    assert len(plot.dots) == 6
    assert all(plot.x.start <= end <= plot.x.end for line in plot.guides for end in (line.x1, line.x2))
    for line, dots in zip(plot.guides, (plot.dots[:3], plot.dots[3:]), strict=True):
        assert (line.x1 + line.x2) / 2 == pytest.approx(sum(dot.x for dot in dots) / 3, abs=1)
        assert {dot.y for dot in dots} == {line.y1}


def test_one_run_of_each_method_has_no_interval(tmp_path: Path):
    found = sides(tmp_path, {"plain": [0.1], "migu": [0.6]})
    assert (found.means, found.intervals, found.tests) == ([], None, [])


def test_two_seeds_have_points_and_no_interval(tmp_path: Path):
    found = sides(tmp_path, {"plain": [0.1, 0.9], "migu": [0.6, 0.7]})
    assert not any("to" in cell for row in found.means for cell in row[1:])
    assert found.intervals is not None
    assert (len(found.intervals.dots), found.intervals.guides) == (4, [])


def test_an_interval_that_is_cut_says_so(tmp_path: Path):
    found = sides(tmp_path, {"plain": [0.1, 0.9, 1.0]})
    assert found.means[0][1].endswith(" to 100.0")
    assert "are cut" in found.about_means


def test_each_run_lies_within_the_chart(tmp_path: Path):
    """The mean of many runs is known better than where the next run will lie."""
    plot = sides(tmp_path, {"plain": [0.1, *[0.5] * 20, 0.9]}).intervals
    assert plot is not None
    assert all(plot.x.start <= dot.x <= plot.x.end for dot in plot.dots)
