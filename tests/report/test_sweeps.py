"""The table of a sweep: means over seeds and orders, and how far the runs are."""

from __future__ import annotations

import io
from pathlib import Path

from clkit.recipe.recipe import Recipe
from clkit.report.console import make_console
from clkit.report.sweeps import SweepProgress, sweep_table
from clkit.results.kinds import LOWER_IS_BETTER, MetricName
from clkit.results.matrix import AccuracyMatrix
from clkit.suites.planning import PlannedRun
from clkit.suites.rates import Choice, Tried
from clkit.suites.state import RunState


def run(method: str, name: str, rate: float | None = None, metric: MetricName = "exact_match") -> PlannedRun:
    recipe = Recipe.load("quickstart", [f"evaluation.metric={metric}"])
    return PlannedRun(method, Path(method, name), recipe, (), rate)


def finished(tasks: list[str], learned: float, kept: float, metric: MetricName = "exact_match") -> RunState:
    rows = [[learned, None], [kept, learned]]
    better = metric not in LOWER_IS_BETTER
    return RunState("finished", 2, AccuracyMatrix(tasks, [9, 9], metric, higher_is_better=better, rows=rows), 60.0)


def shown(runs: list[PlannedRun], states: list[RunState], failed: list[str]) -> list[list[str]]:
    console = make_console(text := io.StringIO())
    console.print(sweep_table(runs, {one.place: state for one, state in zip(runs, states, strict=True)}, failed))
    return [line.split("  ") for line in text.getvalue().splitlines()]


def cells(line: list[str]) -> list[str]:
    return [cell.strip() for cell in line if cell.strip()]


def test_means_are_over_seeds_and_orders() -> None:
    runs = [run("plain", f"order{order}-seed1") for order in (1, 2, 3)] + [run("migu", "order1-seed1")]
    states = [
        finished(["a", "b"], 0.8, 0.4),
        finished(["b", "a"], 0.6, 0.6),
        RunState("running", 1),
        RunState("begun"),
    ]
    *head, _, plain, migu = shown(runs, states, ["migu"])
    assert cells(head[0]) == ["average", "learning"]
    assert cells(head[1]) == ["method", "runs", "accuracy", "BWT", "accuracy"]
    # averages 0.6 and 0.6; BWT -0.4 and 0.0; learned 0.8 and 0.6
    assert cells(plain) == ["plain", "2/3, 1 running", "60.0 ± 0.0", "-20.0 ± 28.3", "70.0 ± 14.1"]
    assert cells(migu) == ["migu", "0/1, 1 failed"]


def test_each_rate_has_a_row() -> None:
    runs = [run("plain", f"rate{rate:g}-seed1", rate) for rate in (1e-4, 1e-3)]
    _, head, _, low, high = shown(runs, [finished(["a", "b"], 0.5, 0.5), RunState("waiting")], [])
    assert cells(head)[:2] == ["method", "rate"]
    assert cells(low) == ["plain", "0.0001", "1/1", "50.0", "0.0", "50.0"]
    assert cells(high) == ["plain", "0.001", "0/1"]


def test_a_loss_is_called_so_and_is_no_percentage() -> None:
    *head, _, plain = shown([run("plain", "seed1", metric="loss")], [finished(["a", "b"], 0.25, 0.5, "loss")], [])
    assert [cells(line) for line in head] == [["average", "learning"], ["method", "runs", "loss", "BWT", "loss"]]
    assert cells(plain) == ["plain", "1/1", "0.375", "-0.250", "0.250"]
    listener = SweepProgress(make_console(text := io.StringIO()), Path("runs"))
    tried = {1e-4: Tried(0.5, 0.4, "loss"), 1e-3: Tried(0.25, 0.3, "loss"), 1e-2: Tried(2.0, 1.0, "loss")}
    listener.chosen("plain", Choice(1e-3, tried))
    assert text.getvalue() == "plain: rate 0.001 (validation: 0.0001: 0.500, 0.001: 0.250, 0.01: 2.000)\n"
