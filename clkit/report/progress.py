"""How far a run is: one live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clkit.events import Listener, Plan
from clkit.report.course import Course
from clkit.report.general_tables import general_text
from clkit.report.matrix_tables import matrix_table
from clkit.report.plan import going_on, model_line
from clkit.report.tables import show_score
from clkit.results.kinds import UNBOUNDED
from clkit.run.layout import ZERO_SHOT

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


def evaluated_text(metric: str, stage: str, row: Mapping[str, float | None], seconds: float) -> str:
    """A row of the matrix as a line."""
    scores = "  ".join(f"{task} {show_score(score, metric)}" for task, score in row.items() if score is not None)
    lower = f", {metric} (lower is better)" if metric in UNBOUNDED else ""
    return f"{_label(stage)}{lower}: {scores or 'not evaluated'}  ({duration(seconds)})"


def step_text(course: Course) -> str:
    """How far a stage is, as a line."""
    return f"{course.stage} step {course.step}/{course.steps}  {told_text(course)}".strip()


def told_text(course: Course) -> str:
    """What is known of a stage at work: loss terms, validation loss, pace."""
    validation = ""
    if course.validation is not None:
        loss, best = course.validation
        validation = f"validation_loss {loss:.3g}" + (f" (lowest at step {best})" if best else "")
    return "  ".join(part for part in (terms_text(course.terms), validation, pace_text(course)) if part)


def pace_text(course: Course) -> str:
    """Steps per second, and how long the whole run may take yet."""
    speed, left = None if course.testing else course.speed(), course.left()
    told = [] if speed is None else [f"{speed:.2f} steps/s"]
    return "  ".join(told if left is None else [*told, f"{duration(left)} left"])


def _label(stage: str) -> str:
    return stage if stage == ZERO_SHOT else f"after {stage}"


def course_view(course: Course, width: int) -> RenderableType:
    """A run that goes on: the stage at work, its loss terms, the time left for all of it, and the matrix so far."""
    if course.testing is not None:
        task, done, total = course.testing
        what = f"testing {task}"
    else:
        what, done, total = f"{course.place} {course.stage}".strip(), course.step, course.steps
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=width // 2)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    if what:
        grid.add_row(Text(what, style="bold"), ProgressBar(max(total, 1), done), f"{done}/{total}")
    parts: list[RenderableType] = [grid]
    if course.plan is not None:
        parts.append(Text(told_text(course), style="dim"))
        if (matrix := course.matrix()) is not None:
            parts.append(matrix_table(matrix, width))
    return Group(*parts)


class RunProgress(Course):
    """What is said of a run as it goes on, in a terminal and elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def noted(self, remark: str) -> None:
        self._console.print(remark, soft_wrap=True)

    def started(self, plan: Plan) -> None:
        super().started(plan)
        self.noted(model_line(plan))
        for remark in (*going_on(plan), *plan.remarks):
            self.noted(remark)

    def skipped(self, task: str) -> None:
        self.noted(f"{task}: finished before")

    def resumed(self, step: int) -> None:
        super().resumed(step)
        self.noted(f"{self.stage}: goes on after step {step}")

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        super().evaluated(stage, row, seconds)
        self.noted(evaluated_text(self._plan.metric, stage, row, seconds))

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        super().measured(stage, general, seconds)
        self.noted(f"{_label(stage)}, general ability: {general_text(general)}  ({duration(seconds)})")


class PlainProgress(RunProgress):
    """Plain lines, at most one every few seconds while a task is trained."""

    def task_started(self, task: str, index: int, steps: int) -> None:
        super().task_started(task, index, steps)
        self._spoke = time.monotonic()
        self.noted(f"{self.place}{', ' if self.place else ''}{task}: {steps} steps")

    def logged(self, terms: Mapping[str, float]) -> None:
        super().logged(terms)
        if time.monotonic() - self._spoke >= QUIET_SECONDS or self.step == self.steps:
            self._spoke = time.monotonic()
            self.noted(step_text(self))


class LiveProgress(RunProgress):
    """One live display (`course_view`); remarks and finished rows stay above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def _view(self) -> RenderableType:
        return course_view(self, self._console.width)

    def show(self) -> None:
        """Take the terminal's last lines for the display, until `finished`."""
        self._live.start()

    def started(self, plan: Plan) -> None:
        super().started(plan)
        self.show()

    def finished(self) -> None:
        self._live.stop()
