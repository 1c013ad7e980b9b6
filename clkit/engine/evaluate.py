"""Tests a saved stage of a run, on its own tasks or on those of another recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clkit.engine.fingerprints import changes, model_read, refuse_changes, task_read
from clkit.engine.limits import checked_texts
from clkit.engine.prepare import left_out, load_learner
from clkit.engine.protocols import lineage, planned_stages
from clkit.engine.surroundings import repeatable_and_quiet
from clkit.errors import RunError, UsageError
from clkit.events import Listener
from clkit.models.examples import without_unusable
from clkit.models.family import Family
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Tested
from clkit.run.doctor import damage_beside, refuse_damage
from clkit.run.folder import RunFolder, Stage
from clkit.run.layout import MEASURED, PREDICTIONS, ZERO_SHOT
from clkit.run.scores import read_records
from clkit.run.seal import MODEL_PARTS
from clkit.tasks.sections import TaskRecipe
from clkit.tasks.task import Task
from clkit.testing.examiner import Examiner
from clkit.wording import did_you_mean


@repeatable_and_quiet()
def evaluate(
    run: RunFolder | str | Path,
    *,
    stage: str | None = None,
    tasks: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    accept_changes: bool = False,
    same_data: bool = False,
    anew: bool = True,
    listener: Listener | None = None,
) -> list[Tested]:
    """Test the model as it was after a stage of a run.

    Args:
        stage: its name (a task's, or `all-tasks`) or number (1 for the first), or `zero-shot`; the last finished one
            where None.
        tasks: names of the tasks to test on; all where None.
        recipe: where tasks, prompt, data and evaluation come from; the run's own recipe where None.
        accept_changes: test although the starting model, below the stage's adapter, is not the one that the run read.
        same_data: refuse test data that are not those of the run, rather than remark on them.
        anew: test also where the run itself tested the same model by the same recipe on the same data, and keeps the
            answers.

    Raises:
        RunError: the stage was not finished, is damaged, or its model was not kept.
        UsageError: a task's name is unknown, or the starting model is another one, or, with ``same_data``, the data.
    """
    listener = listener or Listener()
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    own = Recipe.load(folder.recipe_path)
    recipe = recipe or own
    if recipe.objective != own.objective:
        ours, theirs = (one.objective.model_dump(mode="json", exclude_none=True) for one in (own, recipe))
        raise UsageError(f"objective: the run's is {ours}, that of '{recipe.name}' is {theirs}; both need the same")
    chosen = {name: task_named(recipe, name) for name in tasks or [task.name for task in recipe.task_recipes()]}
    stages = learned_stages(folder, stage, own, accept_changes=accept_changes, listener=listener)
    examined, changed = _test_data(folder, own, recipe, chosen)
    for remark in changed:
        if same_data:
            raise UsageError(f"{remark}; put it back")
        listener.noted(remark)
    known = None
    if not (anew or accept_changes or changed) and recipe == own:
        known = _tested_before(folder, stage, Examiner(examined, recipe), [*chosen])
    if known is not None:
        listener.noted("tested by the run itself, on the same data; --anew tests the saved model once more")
        return known
    family = load_learned(folder, own, stages)
    family.converse(recipe.prompt.chat_template)
    examined = [without_unusable(task, family, recipe) for task in examined]
    for remark in left_out(examined, recipe.evaluation.split):
        listener.noted(remark)
    texts = {}
    for task in examined:
        texts[task.name], remarks = checked_texts(family, recipe, task, recipe.evaluation.split, tested=True)
        for remark in remarks:
            listener.noted(remark)
    examiner = Examiner(examined, recipe, texts=texts)
    return [examiner.test(family, task.name, listener) for task in examined]


def _test_data(
    run: RunFolder, own: Recipe, recipe: Recipe, chosen: Mapping[str, TaskRecipe]
) -> tuple[list[Task], list[str]]:
    """The tasks of a recipe that are tested, and a remark on all that is not what the run was tested on."""
    read = run.read()
    labels = {name: read.get(f"tasks.{name}.labels") for name in chosen}
    tasks = load_tasks(recipe, labels, [*chosen.values()])
    now = {task.name: task_read(task) for task in tasks}
    same = [task for task in tasks if recipe.data == own.data and chosen[task.name] in own.task_recipes()]
    remarks = [
        f"{key} is not what the run was tested on ({where}): the scores do not compare"
        for task in same
        for key, where in changes(read, now[task.name], recipe, f"tasks.{task.name}.{recipe.evaluation.split}")
    ]
    # Another recipe's training data are not what this run's models learned, unless they are the same by another name.
    learned = [value for key, value in read.items() if key.startswith("tasks.") and key.endswith(".train")]
    known = (now[task.name].get(f"tasks.{task.name}.train") in learned for task in tasks)
    return [
        one if own else replace(one, train=one.train.select([])) for one, own in zip(tasks, known, strict=True)
    ], remarks


def _tested_before(run: RunFolder, stage: str | None, examiner: Examiner, tasks: Sequence[str]) -> list[Tested] | None:
    """What the run's own test of a stage gave; None where it does not hold that of all these tasks."""
    found = _find(run.stages(), stage)
    if found is None:
        return None
    refuse_damage(run, [found.folder], [PREDICTIONS])
    records = read_records(found.folder)
    known: list[Tested] = [outcome for task in tasks if (outcome := examiner.read_back(task, records.get(task, [])))]
    return known if len(known) == len(tasks) else None


def task_named(recipe: Recipe, name: str) -> TaskRecipe:
    """The task of a recipe by its name.

    Raises:
        UsageError: it has none of that name.
    """
    known = {task.name: task for task in recipe.task_recipes()}
    if name not in known:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, known)} (tasks: {', '.join(known)})")
    return known[name]


def load_stage(
    run: RunFolder, own: Recipe, stage: str | None, *, accept_changes: bool = False, listener: Listener | None = None
) -> Family:
    """The model as it was after a stage of a run. The data are not needed: the run knows its tasks' labels.

    Raises:
        RunError, UsageError: as `learned_stages`.
    """
    return load_learned(run, own, learned_stages(run, stage, own, accept_changes=accept_changes, listener=listener))


def load_learned(run: RunFolder, own: Recipe, stages: Sequence[Path]) -> Family:
    """The model that went through these stages, the folders that `learned_stages` gave: it has checked every byte."""
    read = run.read()
    labels = {task.name: read.get(f"tasks.{task.name}.labels") for task in own.task_recipes()}
    family = load_learner(own, {name: known for name, known in labels.items() if known is not None}, stages)
    learned = {planned.name: planned.learned for planned in planned_stages(own)}
    family.see(task for folder in stages for task in learned[folder.name.partition("-")[2]])
    return family


def learned_stages(
    run: RunFolder,
    stage: str | None,
    own: Recipe | None = None,
    *,
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> list[Path]:
    """The folders of the stages that a stage's model went through, its own last; none for `zero-shot`.

    Args:
        own: the run's own recipe, if it is loaded already.
        listener: is told of what is damaged in the stage and not needed.

    Raises:
        RunError: there is no such finished stage, its model was not kept, or what is to be loaded of it is damaged.
        UsageError: the starting model is not the one that the run read, and that was not accepted.
    """
    own = own or Recipe.load(run.recipe_path)
    planned = planned_stages(own)
    folders: list[Path] = []
    if not (stage in (ZERO_SHOT, "0") or (stage is None and not planned)):
        finished = [done for done in run.stages() if done.index > 0]
        found = _find(finished, stage)
        if found is None:
            names = ", ".join([ZERO_SHOT, *(f"{done.index}-{done.name}" for done in finished)])
            raise RunError(f"{run.path}: no finished stage '{stage or 'last'}' (finished: {names})")
        if not found.model_kept:
            raise RunError(f"{found.folder}: the model of this stage was not kept ({_why_not_kept(run, found)})")
        folders = [done.folder for done in finished[lineage(planned, found.index - 1)]]
        refuse_damage(run, folders if own.tuning.method == "incremental_lora" else folders[-1:], MODEL_PARTS)
        if listener is not None:
            for remark in damage_beside(folders[-1], MODEL_PARTS):
                listener.noted(remark)
    if not folders or own.tuning.method != "full":  # otherwise nothing is left of the starting model
        refuse_changes(run, own, model_read(own.model), accept=accept_changes, only="model.")
    return folders


def _find(finished: Sequence[Stage], stage: str | None) -> Stage | None:
    if stage is None:
        return finished[-1] if finished else None
    return next((done for done in finished if stage in (done.name, str(done.index), done.folder.name)), None)


def _why_not_kept(run: RunFolder, stage: Stage) -> str:
    measured = run.environment().get(MEASURED)
    if measured is None:
        return "saving.models: last"
    named = f"it read {measured[stage.name]['model']}" if stage.name in measured else "none was named for this one"
    return f"clkit measure keeps none; {named}"
