"""What the engine reports while it works. Listeners show it to a person; the engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clkit.results.kinds import MetricName, Protocol


@dataclass(frozen=True)
class Footprint:
    """What a step of training takes on a device, by a formula, of one process.

    Attributes:
        room: bytes of the device.
        memory: bytes at the peak, by what they are for.
        batch: examples of the largest micro-batch, and tokens of each.
        seconds: of a usual step; None on another device than this machine's.
        operations: of a usual step, in products of matrices.
        ways: changes of the recipe after which it would fit, with the bytes that it then takes, where it does not.
    """

    device: str
    room: int
    memory: Mapping[str, int]
    batch: tuple[int, int]
    seconds: float | None
    operations: float
    ways: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Plan:
    """What a run is going to do, known before it starts.

    Attributes:
        metric: what the tasks are scored by.
        steps: optimizer steps of each stage that trains, in order, by its name: a task's, or `all-tasks`.
        examples: training and test examples of each task; for pretraining, texts. None where a finished task's training
            data are gone.
        dropped: rows without a gold label that were left out, of each task, by split.
        model: family, number of parameters and of trainable parameters, remarks such as which kind of head it has.
        memory: bytes that strategies keep beside the model by the end, by name.
        remarks: what the user should know before the run, a line each.
        labels: training examples of each label, of each task; nothing of one without labels, None without the data.
        samples: prompt and answer of the first example of each task, of the test where none is trained on, as the model
            reads them.
        finished: stages that are, where a run goes on.
        new: tasks that it did not know before.
        brought: what each strategy has kept of those before, by its name.
        tested: test examples after each stage, by its name, the zero-shot evaluation first; in the order of the run.
        measured: the stages after which general ability is measured.
        rows: what is known already of finished stages' scores, by stage and task, where a run goes on.
        footprint: what a step takes, where that was asked for and something is trained.
    """

    name: str
    protocol: Protocol
    metric: MetricName
    tasks: Sequence[str]
    steps: Mapping[str, int]
    examples: Sequence[tuple[int | None, int]]
    dropped: Sequence[Mapping[str, int]]
    model: Mapping[str, Any]
    memory: Mapping[str, int]
    remarks: Sequence[str] = ()
    labels: Sequence[Mapping[str, int | None]] = ()
    samples: Sequence[tuple[str, str]] = ()
    finished: Sequence[str] = ()
    new: Sequence[str] = ()
    brought: Mapping[str, str] = field(default_factory=dict)
    tested: Mapping[str, int] = field(default_factory=dict)
    measured: Sequence[str] = ()
    rows: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    footprint: Footprint | None = None

    def outline(self) -> dict[str, Any]:
        """What a run's log keeps of it: no samples, and nothing that only a person reads."""
        kept = ("name", "protocol", "metric", "tasks", "steps", "tested", "measured", "finished", "remarks")
        return {name: getattr(self, name) for name in kept}


class Listener:
    """Hears what happens in a run. Every method may be overridden; none needs to be."""

    def noted(self, remark: str) -> None:
        """Something that the user should know, in one line."""

    def started(self, plan: Plan) -> None:
        """Everything is loaded."""

    def skipped(self, task: str) -> None:
        """A stage that was finished before is not trained again."""

    def task_started(self, task: str, index: int, steps: int) -> None:
        """Training of a stage begins: of a task, or of all at once. ``index`` counts the plan's stages from 0."""

    def resumed(self, step: int) -> None:
        """Training of the current task goes on from a checkpoint, after that many optimizer steps."""

    def stepped(self, step: int) -> None:
        """An optimizer step of the current task is done. ``step`` counts from 1."""

    def logged(self, terms: Mapping[str, float]) -> None:
        """Loss terms and whatever strategies logged, by name."""

    def validated(self, step: int, loss: float, best_step: int) -> None:
        """The loss on the current task's validation split was measured; the lowest so far was at ``best_step``."""

    def evaluating(self, task: str, examples: int) -> None:
        """Evaluation on a task begins."""

    def answered(self, examples: int) -> None:
        """The model has answered so many more examples."""

    def scored(self, stage: str, task: str, score: float | None) -> None:
        """A cell of the matrix: the score on one task after a stage, in the plan's metric."""

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        """A row of the matrix is complete: scores by task in the plan's metric, None where not measured."""

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        """General ability was measured after a stage: values by measure, None where one is not finite."""

    def finished(self) -> None:
        """The run ended, well or badly. Give the terminal back."""


class Listeners(Listener):
    """Several listeners as one: each hears everything, in this order."""

    def __init__(self, *listeners: Listener) -> None:
        for event in (name for name in vars(Listener) if not name.startswith("_")):
            setattr(self, event, partial(_tell, listeners, event))


def _tell(listeners: Sequence[Listener], event: str, *about: Any) -> None:
    for listener in listeners:
        getattr(listener, event)(*about)
