"""How far a run is, from what it tells: the matrix so far, the stage at work, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from clkit.events import Listener, Plan
from clkit.results.kinds import LOWER_IS_BETTER
from clkit.results.matrix import AccuracyMatrix
from clkit.run.layout import ZERO_SHOT

#: Steps of a stage that say less of its pace than the stages before do: the first is slow.
FEW = 5


class Pace:
    """How long one of many alike takes."""

    def __init__(self) -> None:
        self._count = self._seconds = 0.0

    def add(self, count: float, seconds: float) -> None:
        self._count, self._seconds = self._count + count, self._seconds + seconds

    def each(self) -> float | None:
        """Seconds; None while nothing is known."""
        return self._seconds / self._count if self._count else None


class Course(Listener):
    """What is known of a run while it goes on.

    Attributes:
        clock: the time in seconds; whoever tells of what was before sets another.
        stage: the one that is trained or tested now.
        step, steps: optimizer steps of this stage, done and in all.
        testing: the task that is tested now, and how many of how many of its examples are answered.
        terms: what was logged last.
        validation: the validation loss as it was measured last in this stage, and the step of the lowest so far.
        rows: the scores so far, by stage and task.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.plan: Plan | None = None
        self.stage = ""
        self.step = self.steps = 0
        self.testing: tuple[str, int, int] | None = None
        self.terms: Mapping[str, float] = {}
        self.validation: tuple[float, int] | None = None
        self.rows: dict[str, dict[str, float | None]] = {}
        self._finished: set[str] = set()
        self._steps, self._tests, self._general = Pace(), Pace(), Pace()
        self._first = 0
        self._began = self._stepped = 0.0

    def started(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = {stage: dict(row) for stage, row in plan.rows.items()}
        self._finished = {*plan.rows, *plan.finished}

    def task_started(self, task: str, index: int, steps: int) -> None:
        self.stage, self.steps, self.step, self._first, self.testing = task, steps, 0, 0, None
        self.validation = None
        self._began = self._stepped = self.clock()

    def resumed(self, step: int) -> None:
        self.step = self._first = step

    def stepped(self, step: int) -> None:
        self.step, self._stepped = step, self.clock()

    def logged(self, terms: Mapping[str, float]) -> None:
        self.terms = terms

    def validated(self, step: int, loss: float, best_step: int) -> None:
        self.validation = loss, best_step

    def evaluating(self, task: str, examples: int) -> None:
        self.testing, self.terms = (task, 0, examples), {}

    def answered(self, examples: int) -> None:
        if self.testing is not None:
            task, done, total = self.testing
            self.testing = (task, done + examples, total)

    def scored(self, stage: str, task: str, score: float | None) -> None:
        self.rows.setdefault(stage, {})[task] = score

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        self.rows[stage] = dict(row)
        self._tests.add(self._plan.tested.get(stage, 0), seconds)
        if stage not in self._plan.measured:
            self._end(stage)

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        self._general.add(1, seconds)
        self._end(stage)

    def _end(self, stage: str) -> None:
        if stage == self.stage and stage not in self._finished:
            self._steps.add(self.step - self._first, self._stepped - self._began)
        self._finished.add(stage)
        self.testing = None

    @property
    def _plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    @property
    def place(self) -> str:
        """Which of the plan's trainings the stage is; nothing where all tasks are learned at once."""
        stages = [*self.plan.steps] if self.plan else []
        several = self.stage in stages and self._plan.protocol != "multi_task"
        return f"task {stages.index(self.stage) + 1} of {len(stages)}" if several else ""

    @property
    def is_finished(self) -> bool:
        """Whether all stages are."""
        return self.plan is not None and {*self.plan.tested} <= self._finished

    def stages_done(self) -> tuple[int, int]:
        """How many stages are finished, and how many there are; the evaluation before the first counts too."""
        return len(self._finished & {*self._plan.tested}), len(self._plan.tested)

    def speed(self) -> float | None:
        """Optimizer steps per second in this stage."""
        seconds = self._stepped - self._began
        return (self.step - self._first) / seconds if seconds > 0 and self.step > self._first else None

    def left(self) -> float | None:
        """Seconds that the rest may take, training and tests; None while too little is known.

        Steps take what they take in this stage, or at its beginning what they took in those before, and tests what they
        took by the example; tests are left out while none was made.
        """
        to_come = [stage for stage in self._plan.tested if stage not in self._finished]
        steps = sum(self._plan.steps.get(stage, 0) for stage in to_come if stage != self.stage)
        steps += self.steps - self.step if self.stage in to_come else 0
        speed, each = self.speed(), self._steps.each()
        if speed and (each is None or self.step - self._first >= FEW):
            each = 1 / speed
        if steps and each is None:
            return None
        tests = sum(self._plan.tested[stage] for stage in to_come) - (self.testing[1] if self.testing else 0)
        general = len([stage for stage in to_come if stage in self._plan.measured])
        parts = ((steps, each), (max(tests, 0), self._tests.each()), (general, self._general.each()))
        return sum(count * (pace or 0.0) for count, pace in parts)

    def matrix(self) -> AccuracyMatrix | None:
        """The scores so far, those of a stage that is being tested among them; None before the first."""
        plan = self.plan
        if plan is None or not any(score is not None for row in self.rows.values() for score in row.values()):
            return None
        rows = {stage: [row.get(task) for task in plan.tasks] for stage, row in self.rows.items()}
        known = [place for place, stage in enumerate(plan.steps, start=1) if stage in rows]
        learned = [rows.get(stage, [None] * len(plan.tasks)) for stage in [*plan.steps][: max(known, default=0)]]
        return AccuracyMatrix(
            tasks=[*plan.tasks],
            counts=[1] * len(plan.tasks),
            metric=plan.metric,
            higher_is_better=plan.metric not in LOWER_IS_BETTER,
            protocol=plan.protocol,
            zero_shot=rows.get(ZERO_SHOT),
            rows=learned,
        )
