"""The matrix of models that something else trained: a row for each, and no training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from clkit.engine.fingerprints import model_read
from clkit.engine.fit import Fitted
from clkit.engine.prepare import few_steps, labels_of, load_learner, prepare
from clkit.engine.protocols import PlannedStage
from clkit.engine.resuming import Unfinished
from clkit.engine.stages import Stages, Start, carry_out
from clkit.engine.surroundings import repeatable_and_quiet
from clkit.errors import ModelError, UsageError
from clkit.events import Listener, Plan
from clkit.models.chain import chain_of
from clkit.models.families.classifier import Classifier
from clkit.models.families.encoder import HEAD_DRAWN
from clkit.models.family import Family
from clkit.models.folders import Origin, check_folder
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import paths_read
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.environment import environment
from clkit.run.folder import RunFolder
from clkit.run.layout import MEASURED
from clkit.run.lock import locked
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
    listener: Listener | None = None,
) -> RunFolder:
    """Test models after each task, which something else trained, as the recipe says.

    Args:
        recipe: whose model is the one that they began with: the zero-shot row is its. What it says of training, tuning
            and strategies is not used.
        models: folders, each of what `model.name` may be: a model, a LoRA adapter of peft's, a run, a stage. One for
            each task, in their order; or one alone, of which the last row is measured.
        run: the run folder; `measured_path` where None.

    Raises:
        UsageError: their number is wrong, or the run folder exists already.
        ModelError: one cannot be loaded, or does not fit the tasks; what was measured before stays.
    """
    listener = listener or Listener()
    path = Path(run) if run is not None else measured_path(recipe)
    recipe, sections = _refuse(recipe, models)
    RunFolder.check_free(path, overwrite=overwrite, reads=[*paths_read(recipe), *models])
    with locked(path) as remark:
        if remark is not None:
            listener.noted(remark)
        prepared = prepare(recipe)
        read = [{"model": section.name, **model_read(section)} for section in sections]
        told = {**environment(recipe.seed, sys.argv), "read": prepared.read, MEASURED: read}
        folder = RunFolder.create(path, recipe_yaml(recipe), told, overwrite=overwrite)
        return carry_out(partial(_Measured, sections, Start(prepared)), folder, listener)


def _refuse(recipe: Recipe, models: Sequence[Path]) -> tuple[Recipe, list[ModelSection]]:
    """The recipe as it is measured by, and the models. Refuses what no model has to be loaded for."""
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
    return recipe.model_copy(update=changes), sections


class _Measured(Stages):
    """Stages whose models are loaded, where those of a run are trained."""

    def __init__(
        self,
        models: Sequence[ModelSection],
        start: Start,
        folder: RunFolder,
        listener: Listener,
        interruption: Interruption,
    ) -> None:
        super().__init__(start, folder, listener, interruption)
        self._models = models

    def _plan(self) -> Plan:
        plan = super()._plan()
        remarks = [remark for remark in plan.remarks if remark not in few_steps(plan.steps)]
        return replace(plan, steps=dict.fromkeys(plan.steps, 0), remarks=remarks)

    def _train(self, index: int, planned: PlannedStage, stage: Path, begun: Unfinished | None) -> Fitted:
        self._interruption.check(f"before '{planned.name}'")
        behind = len(self._prepared.stages) - len(self._models)  # stages that no model was named for
        if index >= behind:
            self._prepared.family = self._load(self._models[index - behind])
            self._prepared.family.see(self._prepared.seen(index))
            # Another tokenizer may read, and cut, the same prompts otherwise.
            self._examiner = Examiner(self._prepared.tasks, self._recipe, self._between_batches)
        return Fitted(len(self._prepared.examples(planned)), 0, 0.0, 0.0)

    def _load(self, section: ModelSection) -> Family:
        recipe = self._recipe.model_copy(update={"model": section})
        family = load_learner(recipe, labels_of(self._prepared.tasks))
        if isinstance(family, Classifier) and HEAD_DRAWN in family.remarks:
            raise ModelError(
                f"{section.name} has no head for the labels of the tasks; id2label in its config.json must name them "
                "as the recipe does, those of all tasks in their order"
            )
        return family

    def _tidy(self) -> None:
        for stage in self._folder.stages():
            if stage.index > 0:
                self._folder.drop_model(stage.folder)
        super()._tidy()
