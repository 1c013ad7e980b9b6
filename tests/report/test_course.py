"""How far a run is and how long the rest takes, against what follows from the pace that it is told with."""

from __future__ import annotations

from typing import Any

import pytest

from clkit.events import Plan
from clkit.report.course import Course

TASKS = ["a", "b", "c"]
#: Seconds of a step, of a test example and of measuring general ability.
STEP, TEST, GENERAL = 0.5, 0.25, 7.0


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "name": "x",
        "protocol": "sequential",
        "metric": "exact_match",
        "tasks": TASKS,
        "steps": {"a": 10, "b": 20, "c": 30},
        "examples": [(80, 8)] * 3,
        "dropped": [{}] * 3,
        "model": {},
        "memory": {},
        "tested": {"zero-shot": 24, "a": 8, "b": 16, "c": 24},
    }
    return Plan(**values | changes)


class Run:
    """A run with a clock of its own."""

    def __init__(self, **changes: Any) -> None:
        self.now = 100.0
        self.course = Course(lambda: self.now)
        self.course.started(plan(**changes))

    def test(self, stage: str, tasks: int) -> None:
        for task in TASKS[:tasks]:
            self.course.evaluating(task, 8)
            self.course.answered(8)
            self.course.scored(stage, task, 0.5)
        self.now += 8 * tasks * TEST
        row = {task: 0.5 if place < tasks else None for place, task in enumerate(TASKS)}
        self.course.evaluated(stage, row, 8 * tasks * TEST)

    def train(self, task: str, steps: int, until: int | None = None, first: int = 0) -> None:
        self.course.task_started(task, TASKS.index(task), steps)
        if first:
            self.course.resumed(first)
        for step in range(first + 1, (until or steps) + 1):
            self.now += STEP
            self.course.stepped(step)


def test_the_time_left_is_that_of_all_steps_and_tests_to_come() -> None:
    run = Run()
    assert run.course.left() is None  # nobody knows how long a step takes
    run.test("zero-shot", 3)
    assert run.course.left() is None
    run.train("a", 10, until=4)
    assert run.course.left() == pytest.approx((6 + 20 + 30) * STEP + (8 + 16 + 24) * TEST)
    run.train("a", 10)
    run.course.evaluating("a", 8)
    run.course.answered(4)
    assert run.course.left() == pytest.approx((20 + 30) * STEP + (4 + 16 + 24) * TEST)
    run.test("a", 1)
    assert run.course.left() == pytest.approx((20 + 30) * STEP + (16 + 24) * TEST)
    run.train("b", 25)  # replay made it longer than planned
    run.test("b", 2)
    assert run.course.left() == pytest.approx(30 * STEP + 24 * TEST)
    run.train("c", 30)
    run.test("c", 3)
    assert run.course.left() == 0
    assert run.course.is_finished


def test_the_first_steps_of_a_stage_say_less_than_those_before() -> None:
    run = Run(tested=dict.fromkeys(TASKS, 0))
    run.train("a", 10)
    run.test("a", 1)
    run.course.task_started("b", 1, 20)
    run.now += 60
    run.course.stepped(1)
    assert run.course.left() == pytest.approx((19 + 30) * STEP)


def test_general_ability_takes_its_time_too() -> None:
    run = Run(measured=["zero-shot", "c"])
    run.test("zero-shot", 3)
    assert not run.course.is_finished
    run.course.measured("zero-shot", {"held_out_loss": 1.0}, GENERAL)
    run.train("a", 10)
    run.test("a", 1)
    assert run.course.left() == pytest.approx((20 + 30) * STEP + (16 + 24) * TEST + GENERAL)


def test_a_run_that_goes_on_knows_its_rows_and_leaves_out_what_is_done() -> None:
    rows = {"zero-shot": {"a": 0.0, "b": 0.0, "c": 0.0}, "a": {"a": 0.75}}
    run = Run(rows=rows, finished=["a"])
    run.train("b", 20, until=15, first=10)
    assert run.course.left() == pytest.approx((5 + 30) * STEP)  # how long tests take was not seen
    matrix = run.course.matrix()
    assert matrix is not None
    assert (matrix.zero_shot, matrix.rows) == ([0.0, 0.0, 0.0], [[0.75, None, None]])
    assert run.course.stages_done() == (2, 4)
    assert run.course.speed() == pytest.approx(1 / STEP)


def test_the_matrix_fills_cell_by_cell() -> None:
    run = Run()
    assert run.course.matrix() is None
    run.course.evaluating("a", 8)
    run.course.scored("zero-shot", "a", 0.25)
    matrix = run.course.matrix()
    assert matrix is not None
    assert (matrix.zero_shot, matrix.rows) == ([0.25, None, None], [])


def test_all_tasks_learned_together_have_no_place_among_others() -> None:
    run = Run(protocol="multi_task", steps={"all-tasks": 60}, tested={"zero-shot": 24, "all-tasks": 24})
    run.course.task_started("all-tasks", 0, 60)
    assert run.course.place == ""
    run.course.evaluated("all-tasks", dict.fromkeys(TASKS, 0.5), 1.0)
    matrix = run.course.matrix()
    assert matrix is not None
    assert matrix.rows == [[0.5] * 3]
