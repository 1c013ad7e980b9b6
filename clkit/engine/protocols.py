"""The protocols: what a run trains, and what it tests after it. Declared here, carried out by the sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clkit.recipe.recipe import Recipe
from clkit.results.kinds import Protocol

#: The one stage of multi-task training.
ALL_TASKS = "all-tasks"


@dataclass(frozen=True)
class PlannedStage:
    """One training of a run.

    Attributes:
        name: of the stage, its folder and its lines in the log.
        learned: the tasks whose training data it learns, as one data set.
        tested: the tasks that are tested after it.
        position: how many stages its model has behind it. At 0 it is a fresh copy of the pre-trained model. The seed
            of the training follows from the position: whatever starts at 0 trains as the first task of a sequence
            does, so the outcome of one model per task does not depend on the order of the tasks.
    """

    name: str
    learned: tuple[str, ...]
    tested: tuple[str, ...]
    position: int


_PROTOCOLS: dict[Protocol, Callable[[tuple[str, ...]], list[PlannedStage]]] = {
    "sequential": lambda tasks: [
        PlannedStage(task, learned=(task,), tested=tasks[: index + 1], position=index)
        for index, task in enumerate(tasks)
    ],
    "multi_task": lambda tasks: [PlannedStage(ALL_TASKS, learned=tasks, tested=tasks, position=0)],
    "per_task": lambda tasks: [PlannedStage(task, learned=(task,), tested=(task,), position=0) for task in tasks],
    "zero_shot": lambda tasks: [],
}


def planned_stages(recipe: Recipe) -> list[PlannedStage]:
    """The stages of a recipe's run in order, without the zero-shot evaluation before them."""
    tasks = tuple(task.name for task in recipe.task_recipes())
    stages = _PROTOCOLS[recipe.protocol](tasks)
    if recipe.evaluation.tasks == "all":
        return [replace(stage, tested=tasks) for stage in stages]
    if recipe.evaluation.tasks == "final":
        return [*(replace(stage, tested=()) for stage in stages[:-1]), *stages[-1:]]
    return stages


def tests_first(recipe: Recipe) -> bool:
    """Whether anything is measured before the first task."""
    return recipe.evaluation.zero_shot or (recipe.general is not None and recipe.general.when != "final")


def lineage(stages: Sequence[PlannedStage], index: int) -> slice:
    """Which stages the model of stage ``index`` (from 0) went through, itself last."""
    return slice(index - stages[index].position, index + 1)
