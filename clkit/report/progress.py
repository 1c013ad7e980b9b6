"""What a run is going to do, and how far it is: one live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from clkit.errors import printable
from clkit.events import Listener, Plan
from clkit.report.general_tables import general_text
from clkit.report.tables import show_score
from clkit.results.kinds import UNBOUNDED

NEWLINE, GAP = "↵", " … "
_INDENT = 10
#: So many tasks have room for three lines of a prompt.
_FEW_TASKS = 5

#: What a plan says of its tasks beside their number.
_LEARNED = {
    "sequential": "",
    "multi_task": " learned together",
    "per_task": ", each learned alone",
    "zero_shot": ", none learned",
}


def model_line(plan: Plan) -> str:
    model = plan.model
    share = model["trainable"] / model["parameters"]
    trained = f", {model['trainable']:,} trained ({share:.1%})" if plan.steps else ""
    remarks = "".join(f"; {remark}" for remark in model["remarks"])
    kept = "".join(f"; {name} keeps {_megabytes(size)}" for name, size in plan.memory.items())
    return (
        f"{plan.name}: {len(plan.tasks)} tasks{_LEARNED[plan.protocol]}, {model['family']} model, "
        f"{model['parameters']:,} parameters{trained}{remarks}{kept}"
    )


def going_on(plan: Plan) -> list[str]:
    """What a run brings along that goes on, a line each; nothing of one that begins."""
    if not plan.finished:
        return []
    new = f"; new: {', '.join(plan.new)}" if plan.new else ""
    brought = [f"{name} brings {kept}" for name, kept in plan.brought.items()]
    return [f"finished, and left as it is: {', '.join(plan.finished)}{new}", *brought]


def print_plan(console: Console, plan: Plan) -> None:
    """What a run is going to do: the model, its tasks with their sizes, steps, labels and an example, and remarks."""
    table = Table("task", "train", "test", "steps", "left out", box=None, pad_edge=False)
    for name, (train, test), dropped in zip(plan.tasks, plan.examples, plan.dropped, strict=True):
        steps = "finished" if name in plan.finished else f"{plan.steps[name]:,}" if name in plan.steps else "–"
        table.add_row(name, f"{train:,}", f"{test:,}", steps, dropped_rows(dropped) or "–")
    for stage in plan.steps.keys() - set(plan.tasks):  # one that learns all tasks
        train, test = (sum(sizes) for sizes in zip(*plan.examples, strict=True))
        table.add_row(stage, f"{train:,}", f"{test:,}", f"{plan.steps[stage]:,}", "–")
    console.print(model_line(plan))
    console.print(table)
    for line in going_on(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in _examples(plan, console.width):
        console.print(line, soft_wrap=True)
    for remark in plan.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False, soft_wrap=True)


def _examples(plan: Plan, width: int) -> Iterator[str]:
    """Each task's labels and first example in lines of at most ``width`` characters; few where there are many tasks."""
    room = max(width - _INDENT, 20)
    lines = 3 if len(plan.tasks) <= _FEW_TASKS else 1
    for name, counts, (prompt, answer) in zip(plan.tasks, plan.labels, plan.samples, strict=False):
        yield f"\n{name}"
        told = {"labels": _labels(counts, room), "prompt": _one_line(prompt)}
        told["answer" if prompt else "text"] = _one_line(answer)
        for head, text in told.items():
            for index, piece in enumerate(chop_cells(_shortened(text, lines * room), room) if text else []):
                yield f"  {head if index == 0 else '':{_INDENT - 2}}{piece}"
    if plan.samples and plan.remarks:
        yield ""


def _labels(counts: Mapping[str, int], room: int) -> str:
    """The labels with their training examples, or so many as there is room for."""
    listed = ", ".join(f"{_one_line(label)} {count:,}" for label, count in counts.items())
    if len(listed) <= room:
        return listed
    return f"{len(counts)}, {min(counts.values()):,} to {max(counts.values()):,} each: {listed}"


def _one_line(text: str) -> str:
    """A text with its line ends made visible."""
    return printable(text.replace("\n", NEWLINE))


def _shortened(text: str, room: int) -> str:
    """A text without its middle, where there is no room for it."""
    while cell_len(text) > room:
        excess = cell_len(text) - room
        half = (len(text) - excess - len(GAP)) // 2
        text = text[: max(half, 1)] + GAP + text[-max(half, 1) :]
    return text


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def dropped_rows(dropped: Mapping[str, int]) -> str:
    """How many rows were left out, without a gold label or unusable, by split; nothing where none was."""
    return ", ".join(f"{count:,} {split}" for split, count in dropped.items() if count)


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
        for remark in (*going_on(plan), *plan.remarks):
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
