"""The matrix of models that something else trained: a row for each, and no training."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clkit.engine.fingerprints import model_read, refuse_changes
from clkit.engine.fit import Fitted
from clkit.engine.growing import Earlier, refuse_changed_recipe
from clkit.engine.prepare import few_steps, labels_of, load_learner, prepare
from clkit.engine.protocols import PlannedStage, planned_stages
from clkit.engine.resuming import Unfinished, is_finished, refuse_damaged_run
from clkit.engine.sequence import end, go_on
from clkit.engine.stages import Stages, Start, carry_out
from clkit.engine.surroundings import repeatable_and_quiet
from clkit.errors import ModelError, UsageError
from clkit.events import Listener, Plan
from clkit.models.chain import chain_of
from clkit.models.classifying import Classifying
from clkit.models.family import Family, LabelsOfTasks
from clkit.models.folders import Origin, check_folder
from clkit.models.heads import HEAD_DRAWN
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import load_tasks, paths_read
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.environment import environment
from clkit.run.folder import RunFolder
from clkit.run.layout import MEASURED, check_links
from clkit.run.lock import locked
from clkit.run.place import check_begun, check_free
from clkit.testing.examiner import Examiner
from clkit.training.interruption import Interruption


def measured_path(recipe: Recipe) -> Path:
    """The run folder where none is named: beside that of a training of the recipe."""
    return recipe.run_path.with_name(f"{recipe.run_path.name}-measured")


@repeatable_and_quiet()
def measure(
    recipe: Recipe,
    models: Sequence[Path],
    run: str | Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> RunFolder:
    """Test models after each task, which something else trained, as the recipe says.

    Args:
        recipe: whose model is the one that they began with: the zero-shot row is its. What it says of training, tuning
            and strategies is not used.
        models: folders, each of what `model.name` may be: a model, a LoRA adapter of peft's, a run, a stage. One for
            each task, in their order; or one alone, of which the last row is measured.
        run: the run folder; `measured_path` where None.
        resume: go on where measuring stopped, or with further tasks at the recipe's end and their models; rows that
            are finished are not measured again.
        accept_changes: go on although data or the starting model are not those that the run read.

    Raises:
        UsageError: their number is wrong, or the run folder exists already, or, with ``resume``, does not, or is of
            another recipe, other data or other models.
        ModelError: one cannot be loaded, or does not fit the tasks; all are loaded before the first is tested.
    """
    listener = listener or Listener()
    path = Path(run) if run is not None else measured_path(recipe)
    recipe, sections = _refuse(recipe, models)
    if resume:
        check_begun(path)
        check_links(path)
    else:
        check_free(path, overwrite=overwrite, reads=[*paths_read(recipe), *models])
    with locked(path) as remark:
        if remark is not None:
            listener.noted(remark)
        earlier = RunFolder.open(path) if resume else None
        read = {stage: {"model": section.name, **model_read(section)} for stage, section in sections.items()}
        if earlier is not None:
            _refuse_other_models(earlier, read)
            if is_finished(earlier, recipe):
                end(earlier, recipe, listener, measured=True)
                return earlier
        start = _look(recipe, sections, earlier, listener, accept=accept_changes)
        now = environment(recipe.seed, sys.argv)
        if earlier is None:
            told = {**now, "read": start.prepared.read, MEASURED: read}
            earlier = RunFolder.create(path, recipe_yaml(recipe), told, overwrite=overwrite)
        else:
            go_on(earlier, start, now, listener)
            earlier.note_in_environment(**{MEASURED: earlier.environment()[MEASURED] | read})
        return carry_out(partial(_Measured, sections, start), earlier, listener)


def _refuse(recipe: Recipe, models: Sequence[Path]) -> tuple[Recipe, dict[str, ModelSection]]:
    """The recipe as it is measured by, and the models by their stages. Refuses what no model has to be loaded for."""
    tasks = len(recipe.task_recipes())
    if recipe.protocol != "sequential":
        raise UsageError(f"protocol: {recipe.protocol} is a training of clkit's; measure by a recipe of a sequence")
    if len(models) not in (1, tasks):
        raise UsageError(
            f"--model: {len(models)} models for {tasks} tasks; name one for each task, in their order, or one alone, "
            "which is measured after the last"
        )
    own = {"revision": None, "gguf_file": None}
    sections = [recipe.model.model_copy(update={"name": str(model.resolve()), **own}) for model in models]
    for section in sections:
        origin = Origin.of(chain_of(section).section)
        if origin.folder is not None and origin.gguf_file(None) is None:
            check_folder(origin, origin.folder)
    changes: dict[str, object] = {"strategies": [], "tuning": FullTuning()}
    if len(models) < tasks:
        changes["evaluation"] = recipe.evaluation.model_copy(update={"tasks": "final"})
        if recipe.general is not None and recipe.general.when == "all":
            changes["general"] = recipe.general.model_copy(update={"when": "ends"})
    stages = [stage.name for stage in planned_stages(recipe)]
    return recipe.model_copy(update=changes), dict(zip(stages[-len(sections) :], sections, strict=True))


def _refuse_other_models(run: RunFolder, read: Mapping[str, Mapping[str, str]]) -> None:
    """Make sure that finished rows are of the models that are named for them now, wherever those lie."""
    before = run.environment().get(MEASURED, {})
    for stage in run.stages():
        was, now = ({**one.get(stage.name, {}), "model": None} for one in (before, read))
        if stage.name in before and stage.name in read and was != now:
            raise UsageError(
                f"--model: {read[stage.name]['model']} is not what was measured after '{stage.name}' "
                f"({before[stage.name]['model']}, as it was then); name that, or measure all anew with --overwrite"
            )


def _look(
    recipe: Recipe, models: Mapping[str, ModelSection], earlier: RunFolder | None, listener: Listener, *, accept: bool
) -> Start:
    """Load everything, each model once too, before anything is written or tested."""
    differing: Sequence[str] = ()
    done = Earlier()
    if earlier is not None:
        differing, new = refuse_changed_recipe(earlier, recipe, measured=True)
        refuse_damaged_run(earlier, planned_stages(recipe), [])
        finished = {stage.name: stage.payload["examples"] for stage in earlier.stages() if stage.index > 0}
        done = Earlier([], finished, new)
    labels = labels_of(load_tasks(recipe))
    for stage, section in models.items():
        if stage not in done.finished:
            _load(recipe, section, labels)
            gc.collect()  # two at once might not fit
    prepared = prepare(recipe, done)
    accepted = refuse_changes(earlier, recipe, prepared.read, accept=accept) if earlier is not None else []
    for remark in accepted:
        listener.noted(f"accepted: {remark}")
    return Start(prepared, None, differing, accepted)


def _load(recipe: Recipe, section: ModelSection, labels: LabelsOfTasks) -> Family:
    family = load_learner(recipe.model_copy(update={"model": section}), labels)
    if isinstance(family, Classifying) and HEAD_DRAWN in family.remarks:
        raise ModelError(
            f"{section.name} has no head for the labels of the tasks; id2label in its config.json must name them as "
            "the recipe does and in their order, those of the first task at least"
        )
    return family


class _Measured(Stages):
    """Stages whose models are loaded, where those of a run are trained."""

    def __init__(
        self,
        models: Mapping[str, ModelSection],
        start: Start,
        folder: RunFolder,
        listener: Listener,
        interruption: Interruption,
    ) -> None:
        """``models``: by the stage that each is the outcome of."""
        super().__init__(start, folder, listener, interruption)
        self._models = models

    def _plan(self) -> Plan:
        plan = super()._plan()
        remarks = [remark for remark in plan.remarks if remark not in few_steps(plan.steps)]
        return replace(plan, steps=dict.fromkeys(plan.steps, 0), remarks=remarks)

    def _train(self, index: int, planned: PlannedStage, stage: Path, begun: Unfinished | None) -> Fitted:
        self._interruption.check(f"before '{planned.name}'")
        prepared = self._prepared
        if planned.name in self._models:
            del prepared.family
            gc.collect()
            prepared.family = _load(self._recipe, self._models[planned.name], labels_of(prepared.tasks))
            prepared.family.see(self._answerable(prepared.seen(index)))
            # Another tokenizer may read, and cut, the same prompts otherwise.
            self._examiner = Examiner(prepared.tasks, self._recipe, self._between_batches)
        return Fitted(len(prepared.examples(planned)), 0, 0, None, 0.0, 0.0)

    def _evaluate(self, stage_name: str, tested: Sequence[str], stage: Path) -> dict[str, Any]:
        known = self._answerable(tested) if stage_name in self._models else tested
        if left_out := [task for task in tested if task not in known]:
            self._listener.noted(f"after {stage_name}: not tested on {', '.join(left_out)}: the head lacks its labels")
        return super()._evaluate(stage_name, known, stage)

    def _answerable(self, tasks: Sequence[str]) -> Sequence[str]:
        """Those of the tasks that the model can be asked about: a classifier's head may be of earlier tasks alone."""
        family = self._prepared.family
        return family.answerable(tasks) if isinstance(family, Classifying) else tasks

    def _tidy(self) -> None:
        for stage in self._folder.stages():
            if stage.index > 0:
                self._folder.drop_model(stage.folder)
        super()._tidy()
