"""Shows a run while it goes on: one live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from clkit.events import Listener, Plan
from clkit.report.general_tables import general_text
from clkit.report.plan import dropped_rows, model_line
from clkit.report.tables import show_score
from clkit.results.kinds import UNBOUNDED

#: Seconds between two lines about the same task where the output is no terminal.
QUIET_SECONDS = 10.0


def progress(console: Console) -> Listener:
    """The listener that fits the console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Listener]:
    """A listener for evaluation outside a run: a bar in a terminal, remarks alone elsewhere."""
    listener = LiveProgress(console) if console.is_terminal else PlainProgress(console)
    if isinstance(listener, LiveProgress):
        listener.show()
    try:
        yield listener
    finally:
        listener.finished()


def terms_text(terms: Mapping[str, float]) -> str:
    """Loss terms and strategies' values as one short text: everything logged but the step and the gradient's norm."""
    shown = {key: value for key, value in terms.items() if key not in ("step", "learning_rate", "grad_norm")}
    return "  ".join(f"{key} {value:.3g}" for key, value in shown.items())


def duration(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _place(plan: Plan, index: int) -> str:
    """Which of the plan's trainings stage ``index`` is; nothing where all tasks are learned at once."""
    return "" if plan.protocol == "multi_task" else f"task {index + 1} of {len(plan.steps)}"


def _label(stage: str) -> str:
    return stage if stage == "zero-shot" else f"after {stage}"


class RunProgress(Listener):
    """What is said of a run as it goes on, in a terminal and elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def noted(self, remark: str) -> None:
        self._console.print(remark, soft_wrap=True)

    def started(self, plan: Plan) -> None:
        self._plan = plan
        self.noted(model_line(plan))
        for remark in plan.remarks:
            self.noted(remark)
        for task, dropped in zip(plan.tasks, plan.dropped, strict=True):
            if dropped_rows(dropped):
                self.noted(f"{task}: rows left out, without a gold label or unusable: {dropped_rows(dropped)}")

    def skipped(self, task: str) -> None:
        self.noted(f"{task}: finished before, not trained again")

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._task, self._steps, self._step, self._first = task, steps, 0, 0
        # In this stage and those after it; strategies may have added data to this one.
        self._steps_left = steps + sum([*self._plan.steps.values()][index + 1 :])
        self._task_started = time.monotonic()

    def resumed(self, step: int) -> None:
        self._first = step
        self.stepped(step)
        self.noted(f"{self._task}: goes on after step {step}")

    def stepped(self, step: int) -> None:
        self._steps_left -= step - self._step
        self._step = step

    def _pace(self) -> str:
        """Steps per second in this stage, and the training time left in all stages, evaluation left out."""
        speed = (self._step - self._first) / max(time.monotonic() - self._task_started, 1e-9)
        return f"{speed:.2f} steps/s  {duration(self._steps_left / max(speed, 1e-9))} left"

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        metric = self._plan.metric
        scores = "  ".join(f"{task} {show_score(score, metric)}" for task, score in row.items() if score is not None)
        lower = f", {metric} (lower is better)" if metric in UNBOUNDED else ""
        self.noted(f"{_label(stage)}{lower}: {scores or 'not evaluated'}  ({duration(seconds)})")

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        self.noted(f"{_label(stage)}, general ability: {general_text(general)}  ({duration(seconds)})")


class PlainProgress(RunProgress):
    """Plain lines, at most one every few seconds while a task is trained."""

    def task_started(self, task: str, index: int, steps: int) -> None:
        super().task_started(task, index, steps)
        self._spoke = time.monotonic()
        place = _place(self._plan, index)
        self.noted(f"{place}{', ' if place else ''}{task}: {steps} steps")

    def logged(self, terms: Mapping[str, float]) -> None:
        if time.monotonic() - self._spoke >= QUIET_SECONDS or self._step == self._steps:
            self._spoke = time.monotonic()
            self.noted(f"{self._task} step {self._step}/{self._steps}  {terms_text(terms)}  {self._pace()}")


class LiveProgress(RunProgress):
    """One live display: the task's bar, its loss terms, the speed and the time left; finished rows stay above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[pace]}"),
            console=console,
            expand=True,
        )
        self._terms = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)
        self._bar: TaskID | None = None

    def show(self) -> None:
        """Take the terminal's last lines for the display, until `finished`."""
        self._live.start()

    def _render(self) -> Table:
        grid = Table.grid(expand=True)
        grid.add_row(self._bars)
        grid.add_row(Text(self._terms, style="dim"))
        return grid

    def _start_bar(self, description: str, total: int | None) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = self._bars.add_task(description, total=total, pace="")

    def started(self, plan: Plan) -> None:
        super().started(plan)
        self.show()

    def task_started(self, task: str, index: int, steps: int) -> None:
        super().task_started(task, index, steps)
        self._start_bar(f"{_place(self._plan, index)} [bold]{task}[/bold]".lstrip(), steps)

    def stepped(self, step: int) -> None:
        super().stepped(step)
        if self._bar is not None:
            self._bars.update(self._bar, completed=step, pace=self._pace())

    def logged(self, terms: Mapping[str, float]) -> None:
        self._terms = terms_text(terms)

    def evaluating(self, task: str, examples: int) -> None:
        self._terms = ""
        self._start_bar(f"testing [bold]{task}[/bold]", examples)

    def answered(self, examples: int) -> None:
        if self._bar is not None:
            self._bars.advance(self._bar, examples)

    def finished(self) -> None:
        self._live.stop()
