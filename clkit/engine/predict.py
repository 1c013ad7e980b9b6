"""Answers of a run's model to texts of the user's, asked just as the run's test asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from clkit.engine.evaluate import load_stage, task_named
from clkit.engine.limits import checked_texts
from clkit.errors import RunError, UsageError
from clkit.events import Listener
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Answers
from clkit.run.folder import RunFolder
from clkit.run.scores import last_records
from clkit.tasks import inputs
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.sections import TaskRecipe
from clkit.testing.examiner import Examiner


def _labels(run: RunFolder, task: TaskRecipe) -> Sequence[str]:
    """The labels of a task of the run: the recipe's, or those that its data had."""
    labels: Sequence[str] | None = task.labels or run.read().get(f"tasks.{task.name}.labels")
    if labels is None:
        raise RunError(f"{run.env_path} does not tell the labels of task '{task.name}'; see `clkit doctor {run.path}`")
    return labels


def _as_tested(recipe: Recipe, *, named: bool) -> Recipe:
    """The recipe by which texts are asked as its test asks; ``named``: they are of one of its tasks."""
    evaluation = recipe.evaluation.model_copy(update={"split": "test", "metric": "exact_match"})
    prompt = recipe.prompt.model_copy(update={"task_name": recipe.prompt.task_name and named})
    return recipe.model_copy(update={"evaluation": evaluation, "prompt": prompt})


def _without_turns(run: RunFolder, task: TaskRecipe | None, rows: Dataset) -> Iterator[str]:
    """A remark on inputs that stand alone where those of the task's tests stood behind other turns."""
    if task is None or not getattr(task.source, "messages", None) or {*rows["turns"]} != {NO_TURNS}:
        return
    if any(record.get("turns") for record in last_records([stage.folder for stage in run.stages()], task.name)):
        yield (
            f"task '{task.name}' was learned from conversations, and this is asked without the turns before it; give "
            "them with --file, in records with `messages`"
        )


def predict(
    run: RunFolder,
    texts: list[str] | Path,
    *,
    task: str | None = None,
    stage: str | None = None,
    scores: bool = False,
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """What the model answers to each text, in their order.

    Args:
        texts: or the file they stand in (`clkit.tasks.inputs.read`).
        task: the task that they are of, whose instruction and labels make the prompt; without it the text stands in the
            prompt's frame alone, and the model writes.
        stage: as in `clkit.engine.evaluate.evaluate`; where each task has a model of its own, that of the task.
        scores: tell how probable each label is.

    Returns:
        One record each: `place`, `text`, `task`, `prediction`, and what else is wanted: `scores` of the labels, and
        `ranked` where the run's test takes both.

    Raises:
        UsageError: the run has no such task, or none can be asked so.
        RunError: the stage's model cannot be loaded.
        DataError: an input is empty, broken, or too long; says which.
        ModelError: the model has no positions for an input.
    """
    listener = listener or Listener()
    recipe = Recipe.load(run.recipe_path)
    if recipe.objective.kind == "pretraining":
        raise UsageError(f"{run.path}: objective.kind: pretraining has no answers, so there is nothing to predict")
    chosen = None if task is None else task_named(recipe, task)
    names = ", ".join(one.name for one in recipe.task_recipes())
    if chosen is None and recipe.objective.kind == "classification":
        raise UsageError(f"--task: the model chooses among a task's labels; name the task (tasks: {names})")
    labels = None if chosen is None or chosen.answers != "labels" else _labels(run, chosen)
    if scores and labels is None:
        raise UsageError(
            f"--scores: {f'the answers of task {task!r} are free' if task else 'name a --task'}; labels have scores"
        )
    rows: Dataset = inputs.read(texts, chosen) if isinstance(texts, Path) else inputs.given(texts)
    stage = stage or (task if recipe.protocol == "per_task" else None)
    family = load_stage(run, recipe, stage, accept_changes=accept_changes, listener=listener)
    asked = inputs.asked(chosen, labels, rows)
    recipe = _as_tested(recipe, named=task is not None)
    for remark in [*_without_turns(run, chosen, rows), *checked_texts(family, recipe, asked, "test", tested=True)[1]]:
        listener.noted(remark)
    examiner = Examiner([asked], recipe)
    answers = examiner.test(family, asked.name, listener)
    assert isinstance(answers, Answers)
    columns: dict[str, Any] = {"place": rows["place"][:], "text": rows["text"][:], "task": [task] * len(rows)}
    columns["prediction"] = answers.predictions
    if answers.ranked is not None:
        columns["ranked"] = answers.ranked
    if scores:
        columns["scores"] = examiner.scores(family, asked.name, listener)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
