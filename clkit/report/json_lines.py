"""Events for machines: one JSON object per line, the same of a run that trains as of one that is watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clkit.events import Plan
from clkit.report.course import Course
from clkit.run.atomic import event_line, now


class JsonLines(Course):
    """Writes what it hears.

    Args:
        write: takes a line with its end.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def tell(self, event: str, **values: Any) -> None:
        """Write one event."""
        self._write(event_line({"event": event, "time": now(), **values}))

    def noted(self, remark: str) -> None:
        self.tell("note", text=remark)

    def started(self, plan: Plan) -> None:
        super().started(plan)
        self.tell("planned", **plan.outline())

    def skipped(self, task: str) -> None:
        self.tell("skipped", stage=task)

    def task_started(self, task: str, index: int, steps: int) -> None:
        super().task_started(task, index, steps)
        self.tell("task_started", task=task, steps=steps)

    def resumed(self, step: int) -> None:
        super().resumed(step)
        self.tell("goes_on", task=self.stage, after=step)

    def logged(self, terms: Mapping[str, float]) -> None:
        super().logged(terms)
        self.tell("step", task=self.stage, **terms, seconds_left=self.left())

    def validated(self, step: int, loss: float, best_step: int) -> None:
        super().validated(step, loss, best_step)
        self.tell("validated", task=self.stage, step=step, validation_loss=loss, best_step=best_step)

    def evaluating(self, task: str, examples: int) -> None:
        super().evaluating(task, examples)
        self.tell("testing", task=task, examples=examples)

    def scored(self, stage: str, task: str, score: float | None) -> None:
        super().scored(stage, task, score)
        self.tell("scored", stage=stage, task=task, score=score)

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        super().evaluated(stage, row, seconds)
        self.tell("evaluated", stage=stage, row=dict(row), seconds=seconds, seconds_left=self.left())

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        super().measured(stage, general, seconds)
        self.tell("measured", stage=stage, general=dict(general), seconds=seconds)
