"""Tests a saved stage of a run, on its own tasks or on those of another recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clkit.engine.limits import checked_texts
from clkit.engine.prepare import load_learner
from clkit.engine.protocols import lineage, planned_stages
from clkit.errors import RunError, UsageError
from clkit.events import Listener
from clkit.models.examples import without_unusable
from clkit.models.family import Family
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Tested
from clkit.run.folder import ZERO_SHOT, RunFolder, Stage
from clkit.section import did_you_mean
from clkit.tasks.loading import load_task, load_tasks
from clkit.testing.examiner import Examiner


def evaluate(
    run: RunFolder | str | Path,
    *,
    stage: str | None = None,
    tasks: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    listener: Listener | None = None,
) -> list[Tested]:
    """Test the model as it was after a stage of a run.

    Args:
        stage: its name (a task's, or `all-tasks`) or number (1 for the first), or `zero-shot`; the last finished one
            where None.
        tasks: names of the tasks to test on; all where None.
        recipe: where tasks, prompt, data and evaluation come from; the run's own recipe where None.

    Raises:
        RunError: the stage was not finished, or its model was not kept.
        UsageError: a task's name is unknown.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    own = Recipe.load(folder.recipe_path)
    recipe = recipe or own
    if recipe.objective != own.objective:
        ours, theirs = (one.objective.model_dump(mode="json", exclude_none=True) for one in (own, recipe))
        raise UsageError(f"objective: the run's is {ours}, that of '{recipe.name}' is {theirs}; both need the same")
    chosen = {task.name: task for task in recipe.task_recipes()}
    for name in tasks or []:
        if name not in chosen:
            raise UsageError(f"unknown task '{name}'{did_you_mean(name, chosen)} (tasks: {', '.join(chosen)})")
    family = load_stage(folder, own, stage)
    plain_text = recipe.objective.kind == "pretraining"
    examined = [load_task(chosen[name], recipe.data, recipe.seed, plain_text=plain_text) for name in tasks or chosen]
    family.converse(recipe.prompt.chat_template)
    examined = [without_unusable(task, family, recipe) for task in examined]
    for task in examined:
        for remark in checked_texts(family, recipe, task, recipe.evaluation.split, tested=True)[1]:
            (listener or Listener()).noted(remark)
    examiner = Examiner(examined, recipe)
    return [examiner.test(family, task.name, listener) for task in examined]


def load_stage(run: RunFolder, recipe: Recipe, stage: str | None) -> Family:
    """The model as it was after a stage of a run.

    Args:
        recipe: the run's own.

    Raises:
        RunError: the stage was not finished, or its model was not kept.
    """
    stages = learned_stages(run, stage)
    tasks = load_tasks(recipe) if recipe.objective.kind == "classification" else []
    family = load_learner(recipe, tasks, stages)
    learned = {planned.name: planned.learned for planned in planned_stages(recipe)}
    family.see(task for folder in stages for task in learned[folder.name.partition("-")[2]])
    return family


def learned_stages(run: RunFolder, stage: str | None) -> list[Path]:
    """The folders of the stages that a stage's model went through, its own last; none for `zero-shot`.

    Raises:
        RunError: there is no such finished stage, or its model was not kept.
    """
    planned = planned_stages(Recipe.load(run.recipe_path))
    if stage in (ZERO_SHOT, "0") or (stage is None and not planned):
        return []
    finished = [done for done in run.stages() if done.index > 0]
    found = _find(finished, stage)
    if found is None:
        names = ", ".join([ZERO_SHOT, *(f"{done.index}-{done.name}" for done in finished)])
        raise RunError(f"{run.path}: no finished stage '{stage or 'last'}' (finished: {names})")
    if not ((found.folder / "model").is_dir() or (found.folder / "adapter").is_dir()):
        raise RunError(f"{found.folder}: the model of this stage was not kept (saving.models: last)")
    return [done.folder for done in finished[lineage(planned, found.index - 1)]]


def _find(finished: Sequence[Stage], stage: str | None) -> Stage | None:
    if stage is None:
        return finished[-1] if finished else None
    return next((done for done in finished if stage in (done.name, str(done.index), done.folder.name)), None)
