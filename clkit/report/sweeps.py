"""What is shown of a sweep: one table, live in a terminal, and a line per run elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clkit.report.progress import duration
from clkit.report.tables import HEADS, MISSING, SIGNED, noun_of, plain_table, show_score
from clkit.suites.planning import PlannedRun
from clkit.suites.rates import Choice
from clkit.suites.state import RunState, state_of
from clkit.suites.sweep import Failed, SweepListener

SHOWN = ("average_accuracy", "bwt", "learning_accuracy")


def sweep_table(runs: Sequence[PlannedRun], states: Mapping[Path, RunState], failed: Sequence[str]) -> Table:
    """A row for each method (at each rate, if there are several): how far its runs are, and the means of their scores.

    Args:
        states: of each run by its place.
        failed: the methods of runs that failed, once for each run.
    """
    groups: dict[tuple[str, float | None], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.method, run.rate), []).append(run)
    table = plain_table()
    table.add_column("method", overflow="fold")
    rated = any(rate is not None for _, rate in groups)
    kinds = list({run.recipe.metric for run in runs})
    noun = noun_of(kinds[0]) if len(kinds) == 1 else "score"
    for head in (*(["rate"] if rated else []), "runs", *(HEADS[name].format(noun=noun) for name in SHOWN)):
        table.add_column(head, justify="right", no_wrap=True)
    for (method, rate), own in groups.items():
        found = [states[run.place] for run in own]
        done = [one.matrix for one in found if one.matrix is not None]
        running = sum(one.state == "running" for one in found)
        counts = [f"{len(done)}/{len(own)}", *([f"{running} running"] if running else [])]
        counts += [f"{failed.count(method)} failed"] if method in failed else []
        metrics = [matrix.metrics() for matrix in done]
        cells = [_cell([one[name].value for one in metrics], name, done[0].metric) if done else "" for name in SHOWN]
        shown = ["" if rate is None else f"{rate:g}"] if rated else []
        table.add_row(Text(method), *shown, ", ".join(counts), *cells)
    return table


def _cell(values: Sequence[float | None], name: str, scored_by: str) -> str:
    """Mean ± sample standard deviation, over seeds and orders; a dash where one was not measured."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return MISSING
    spread = f" ± {show_score(stdev(numbers), scored_by)}" if len(numbers) > 1 else ""
    return show_score(fmean(numbers), scored_by, signed=name in SIGNED) + spread


class SweepProgress(SweepListener):
    """Lines as runs end; in a terminal below them the table, drawn anew each second.

    Args:
        folder: of the suite's runs.
    """

    def __init__(self, console: Console, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._runs: Sequence[PlannedRun] = ()
        self._states: dict[Path, RunState] = {}
        self._failed: list[str] = []
        self._left = self._ended = 0
        self._began = time.monotonic()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=1, transient=True)

    def _table(self) -> RenderableType:
        for run in self._runs:
            known = self._states.get(run.place)
            if known is None or known.state != "finished":
                self._states[run.place] = state_of(self._folder / run.place)
        return sweep_table(self._runs, self._states, self._failed)

    def noted(self, remark: str) -> None:
        self._console.print(remark, soft_wrap=True)

    def started(self, runs: Sequence[PlannedRun], due: int) -> None:
        self._runs, self._failed, self._left, self._ended = runs, [], due, 0
        self._began = time.monotonic()
        split = runs[0].recipe.evaluation.split if runs else "test"
        self.noted(f"{len(runs)} runs, tested on the {split} split; {len(runs) - due} finished before")
        if self._console.is_terminal:
            self._live.start()

    def ended(self, run: PlannedRun, failed: Failed | None) -> None:
        self._left, self._ended = self._left - 1, self._ended + 1
        pace = (time.monotonic() - self._began) / self._ended
        left = f"{self._left} to go, about {duration(pace * self._left)} left" if self._left else "that was the last"
        if failed is None:
            self.noted(f"{run.place}: finished; {left}")
        else:
            self._failed.append(run.method)
            self.noted(f"{run.place}: FAILED ({failed.reason}; log: {failed.log}); {left}")

    def chosen(self, method: str, choice: Choice | None) -> None:
        self._live.stop()
        if choice is None:
            self.noted(
                f"{method}: no rate is chosen, and nothing tested, while a run by which it is chosen is not finished"
            )
            return
        if not choice.tried:  # it has one rate
            return
        tried = ", ".join(
            f"{rate:g}: {show_score(one.average, one.metric)}" for rate, one in sorted(choice.tried.items())
        )
        end = f"; a {choice.beyond} one may be better, and was not tried" if choice.beyond else ""
        self.noted(f"{method}: rate {choice.rate:g} (validation: {tried}){end}")

    def finished(self) -> None:
        self._live.stop()


def print_dry_run(console: Console, runs: Sequence[PlannedRun], later: int, folder: Path, side_by_side: int) -> None:
    """Every run with its command, and how long those that are not finished may take.

    Args:
        later: how many more there will be when learning rates are chosen.
        side_by_side: how many runs go on at a time.
    """
    states = [state_of(folder / run.place) for run in runs]
    for run, state in zip(runs, states, strict=True):
        console.print(f"{shlex.join(['clkit', *run.command(folder)])}  # {state.state}", soft_wrap=True)
    took = [one.seconds for one in states if one.state == "finished"]
    due = len(states) - len(took) + later
    further = f", {later} of them when rates are chosen" if later else ""
    console.print(f"{len(runs) + later} runs{further}: {len(took)} finished, {due} to go, {side_by_side} side by side")
    if took and due:
        each = sum(took) / len(took)
        console.print(f"about {duration(each * due / side_by_side)}, by the {duration(each)} that a finished one took")
    elif due:
        console.print("how long they take is known when one is finished")
