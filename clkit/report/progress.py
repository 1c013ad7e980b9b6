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
from clkit.report.tables import show_score
from clkit.results.matrix import UNBOUNDED

#: Seconds between two lines about the same task where the output is no terminal.
QUIET_SECONDS = 10.0


def progress(console: Console) -> Listener:
    """The listener that fits the console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Listener]:
    """A listener for evaluation outside a run: a bar in a terminal, nothing elsewhere."""
    listener = LiveProgress(console) if console.is_terminal else Listener()
    if isinstance(listener, LiveProgress):
        listener.show()
    try:
        yield listener
    finally:
        listener.finished()


def print_plan(console: Console, plan: Plan) -> None:
    """What a run is going to do: its tasks with their sizes and steps, and the model."""
    table = Table("task", "train", "test", "steps", "without label", box=None, pad_edge=False)
    for name, (train, test), dropped in zip(plan.tasks, plan.examples, plan.dropped, strict=True):
        steps = f"{plan.steps[name]:,}" if name in plan.steps else "–"
        table.add_row(name, f"{train:,}", f"{test:,}", steps, _dropped(dropped) or "–")
    for stage in plan.steps.keys() - set(plan.tasks):  # one that learns all tasks
        train, test = (sum(sizes) for sizes in zip(*plan.examples, strict=True))
        table.add_row(stage, f"{train:,}", f"{test:,}", f"{plan.steps[stage]:,}", "–")
    console.print(_model_line(plan))
    console.print(table)


def terms_text(terms: Mapping[str, float]) -> str:
    """Loss terms and strategies' values as one short text: everything logged but the step and the gradient's norm."""
    shown = {key: value for key, value in terms.items() if key not in ("step", "learning_rate", "grad_norm")}
    return "  ".join(f"{key} {value:.3g}" for key, value in shown.items())


def duration(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


#: What a plan says of its tasks beside their number.
_LEARNED = {
    "sequential": "",
    "multi_task": " learned together",
    "per_task": ", each learned alone",
    "zero_shot": ", none learned",
}


def _model_line(plan: Plan) -> str:
    model = plan.model
    share = model["trainable"] / model["parameters"]
    trained = f", {model['trainable']:,} trained ({share:.1%})" if plan.steps else ""
    remarks = "".join(f"; {remark}" for remark in model["remarks"])
    kept = "".join(f"; {name} keeps {megabytes(size)}" for name, size in plan.memory.items())
    return (
        f"{plan.name}: {len(plan.tasks)} tasks{_LEARNED[plan.protocol]}, {model['family']} model, "
        f"{model['parameters']:,} parameters{trained}{remarks}{kept}"
    )


def _place(plan: Plan, index: int) -> str:
    """Which of the plan's trainings stage ``index`` is; nothing where all tasks are learned at once."""
    return "" if plan.protocol == "multi_task" else f"task {index + 1} of {len(plan.steps)}"


def megabytes(size: int) -> str:
    """Bytes as megabytes or gigabytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _dropped(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in dropped.items() if count)


def _row_text(stage: str, row: Mapping[str, float | None], seconds: float, metric: str) -> str:
    scores = "  ".join(f"{task} {show_score(score, metric)}" for task, score in row.items() if score is not None)
    lower = f", {metric} (lower is better)" if metric in UNBOUNDED else ""
    return f"{_label(stage)}{lower}: {scores or 'not evaluated'}  ({duration(seconds)})"


def _general_line(stage: str, general: Mapping[str, float | None], seconds: float) -> str:
    return f"{_label(stage)}, general ability: {general_text(general)}  ({duration(seconds)})"


def _label(stage: str) -> str:
    return stage if stage == "zero-shot" else f"after {stage}"


class _Clock:
    """The speed of the current stage, and from it the training time left in all stages."""

    def __init__(self, plan: Plan) -> None:
        self._steps = list(plan.steps.values())

    def start_task(self, index: int, steps: int) -> None:
        self._started = time.monotonic()
        self._left = steps + sum(self._steps[index + 1 :])  # strategies may have added data to this task
        self._step = self._first = 0

    def resume_task(self, step: int) -> None:
        self._left -= step
        self._step = self._first = step

    def step(self, step: int) -> None:
        self._left -= step - self._step
        self._step = step

    def speed(self) -> float:
        """Steps per second in the current task."""
        return (self._step - self._first) / max(time.monotonic() - self._started, 1e-9)

    def left(self) -> float:
        """Seconds of training left in all tasks, evaluation left out."""
        return self._left / max(self.speed(), 1e-9)


class PlainProgress(Listener):
    """Plain lines, at most one every few seconds while a task is trained."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def noted(self, remark: str) -> None:
        self._line(remark)

    def started(self, plan: Plan) -> None:
        self._plan = plan
        self._clock = _Clock(plan)
        self._line(_model_line(plan))
        for name, dropped in zip(plan.tasks, plan.dropped, strict=True):
            if _dropped(dropped):
                self._line(f"{name}: dropped rows without a gold label: {_dropped(dropped)}")

    def skipped(self, task: str) -> None:
        self._line(f"{task}: finished before, not trained again")

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._task, self._steps, self._step = task, steps, 0
        self._clock.start_task(index, steps)
        self._spoke = time.monotonic()
        place = _place(self._plan, index)
        self._line(f"{place}{', ' if place else ''}{task}: {steps} steps")

    def resumed(self, step: int) -> None:
        self._clock.resume_task(step)
        self._line(f"{self._task}: goes on after step {step}")

    def stepped(self, step: int) -> None:
        self._step = step
        self._clock.step(step)

    def logged(self, terms: Mapping[str, float]) -> None:
        if time.monotonic() - self._spoke >= QUIET_SECONDS or self._step == self._steps:
            self._spoke = time.monotonic()
            self._line(
                f"{self._task} step {self._step}/{self._steps}  {terms_text(terms)}  "
                f"{self._clock.speed():.2f} steps/s  {duration(self._clock.left())} left"
            )

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        self._line(_row_text(stage, row, seconds, self._plan.metric))

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        self._line(_general_line(stage, general, seconds))


class LiveProgress(Listener):
    """One live display: the task's bar, its loss terms, the speed and the time left; finished rows stay above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[pace]}"),
            console=console,
            expand=True,
        )
        self._terms = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)
        self._shown: TaskID | None = None

    def show(self) -> None:
        """Take the terminal's last lines for the display, until `finished`."""
        self._live.start()

    def noted(self, remark: str) -> None:
        self._console.print(remark, soft_wrap=True)

    def _render(self) -> Table:
        grid = Table.grid(expand=True)
        grid.add_row(self._bar)
        grid.add_row(Text(self._terms, style="dim"))
        return grid

    def _start_bar(self, description: str, total: int | None) -> None:
        if self._shown is not None:
            self._bar.remove_task(self._shown)
        self._shown = self._bar.add_task(description, total=total, pace="")

    def started(self, plan: Plan) -> None:
        self._plan = plan
        self._clock = _Clock(plan)
        self._console.print(_model_line(plan))
        for name, dropped in zip(plan.tasks, plan.dropped, strict=True):
            if _dropped(dropped):
                self._console.print(f"{name}: dropped rows without a gold label: {_dropped(dropped)}")
        self.show()

    def skipped(self, task: str) -> None:
        self._console.print(f"{task}: finished before, not trained again")

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._clock.start_task(index, steps)
        self._start_bar(f"{_place(self._plan, index)} [bold]{task}[/bold]".lstrip(), steps)

    def resumed(self, step: int) -> None:
        self._clock.resume_task(step)
        self._console.print(f"goes on after step {step}")

    def stepped(self, step: int) -> None:
        self._clock.step(step)
        if self._shown is not None:
            pace = f"{self._clock.speed():.1f} steps/s · {duration(self._clock.left())} left"
            self._bar.update(self._shown, completed=step, pace=pace)

    def logged(self, terms: Mapping[str, float]) -> None:
        self._terms = terms_text(terms)

    def evaluating(self, task: str, examples: int) -> None:
        self._terms = ""
        self._start_bar(f"testing [bold]{task}[/bold]", examples)

    def answered(self, examples: int) -> None:
        if self._shown is not None:
            self._bar.advance(self._shown, examples)

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        self._console.print(_row_text(stage, row, seconds, self._plan.metric))

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        self._console.print(_general_line(stage, general, seconds))

    def finished(self) -> None:
        self._live.stop()
