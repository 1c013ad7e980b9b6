"""What `--resume` goes on from: the stage that an earlier run did not finish, and how far it came.

A stage is `done.json` when finished, `trained.json` when trained and saved but not yet tested, and otherwise the newest
whole one of its `checkpoints`. A folder with none of these is begun anew.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clkit.engine.fit import Fitted
from clkit.engine.protocols import PlannedStage, lineage, planned_stages, tests_first
from clkit.errors import ClkitError, RunError
from clkit.recipe.recipe import Recipe
from clkit.run.atomic import remove, sync
from clkit.run.doctor import refuse_damage, remedy
from clkit.run.folder import RunFolder
from clkit.run.layout import STAGE_PARTS, TRAINED_FILE, ZERO_SHOT, refuse_strangers
from clkit.run.seal import CHECKPOINTS, Checked, Done, seal_files
from clkit.training.checkpoints import Checkpoint, CheckpointFolder


@dataclass(frozen=True)
class Unfinished:
    """How far a stage came: it is trained, or there is a checkpoint; never both."""

    index: int
    folder: Path
    trained: Fitted | None = None
    checkpoint: Checkpoint | None = None


def find_unfinished(run: RunFolder, stages: Sequence[PlannedStage], note: Callable[[str], None]) -> Unfinished | None:
    """The stage to go on with, where something of it can be used.

    Args:
        note: is told of checkpoints that are damaged.

    Raises:
        RunError: another version of clkit trained it.
    """
    index = sum(stage.index > 0 for stage in run.stages())
    if index == len(stages):
        return None
    folder = run.stage_folder(index + 1, stages[index].name)
    if (folder / TRAINED_FILE).is_file():
        try:
            done = Done.read(folder, TRAINED_FILE)
            done.refuse_damage(folder)
        except RunError as error:
            note(f"{folder} is damaged and trained anew: {error}")
        else:
            return Unfinished(index, folder, trained=_fitted(done, folder))
    checkpoint = CheckpointFolder(folder, run.log.path).newest(note)
    return Unfinished(index, folder, checkpoint=checkpoint) if checkpoint else None


def _fitted(done: Done, folder: Path) -> Fitted:
    try:
        return Fitted(**done.payload)
    except TypeError as error:
        raise RunError(
            f"{folder / TRAINED_FILE} was written by another version of clkit ({error}): go on with that version, or "
            f"remove {folder} to train the stage anew"
        ) from error


def clear_for_resuming(run: RunFolder, stages: Sequence[PlannedStage], unfinished: Unfinished | None) -> None:
    """Remove what lies behind the point that the run goes on from: half-written files, and lines of the log."""
    run.discard_unfinished(but=unfinished.folder if unfinished else None)
    finished = {stage.name for stage in run.stages()}
    kept: dict[str, float] = {
        name: 0 for name in (ZERO_SHOT, *(stage.name for stage in stages)) if name not in finished
    }
    if unfinished is not None:
        checkpoint = unfinished.checkpoint
        kept[stages[unfinished.index].name] = checkpoint.step if checkpoint else math.inf
        for entry in unfinished.folder.iterdir():
            if (entry.name == CHECKPOINTS) is not bool(checkpoint) or entry.name.startswith("."):
                remove(entry)
        if checkpoint:
            CheckpointFolder(unfinished.folder, run.log.path).remove_after(checkpoint.step)
    run.log.cut(kept)


def refuse_damaged_run(run: RunFolder, stages: Sequence[PlannedStage], loaded: Sequence[Path]) -> None:
    """Refuse to go on from what is not as the run left it.

    Args:
        loaded: the folders of the finished stages whose files are about to be loaded, the last one for its model.

    Raises:
        RunError: a file of these stages is missing or was changed, or the model was not kept; or the run
            is finished, and anything of it is not whole.
    """
    refuse_strangers(run.path)
    done = run.stages()
    learned = [stage for stage in done if stage.index > 0]
    if len(learned) == len(stages):
        refuse_damage(run, [stage.folder for stage in done])
    elif learned and loaded and loaded[-1] == learned[-1].folder and not learned[-1].model_kept:
        raise RunError(
            f"{loaded[-1]}: the model of this stage was not kept (saving.models: last), so nothing can go on from it; "
            f"{remedy(run, loaded[-1])}"
        )
    refuse_damage(run, [folder for folder in loaded if folder in [stage.folder for stage in learned]])


def is_finished(run: RunFolder, recipe: Recipe) -> bool:
    """Whether a run has finished all stages of its recipe, so that neither the model nor the data are needed."""
    finished = {stage.index for stage in run.stages()}
    return {*range(0 if tests_first(recipe) else 1, len(planned_stages(recipe)) + 1)} <= finished


def tidy(run: RunFolder, recipe: Recipe, stages: Sequence[PlannedStage]) -> None:
    """Export the scores, and drop the models that are not kept, which later stages do not need.

    A kill may have come after the stage was finished and before this was done, so it is repeated when going on.
    """
    run.export()
    for folder in _not_kept(run, recipe, stages):
        run.drop_model(folder)


def _not_kept(run: RunFolder, recipe: Recipe, stages: Sequence[PlannedStage]) -> list[Path]:
    """The finished stages whose model the recipe does not keep."""
    if recipe.saving.models != "last":
        return []
    learned = [stage.folder for stage in run.stages() if stage.index > 0]
    builds = recipe.tuning.method == "incremental_lora"  # each adapter lies on those before it
    later = zip(learned[:-1], stages[1:], strict=False)
    return [folder for folder, after in later if not (builds and after.position > 0)]


def examine_kept(run: RunFolder) -> Iterator[Checked]:
    """Name the models that a kill kept: `done.json` did not yet say that they go."""
    try:
        recipe = Recipe.load(run.recipe_path)
        folders = _not_kept(run, recipe, planned_stages(recipe))
        left = [folder for folder in folders if Done.read(folder).model_kept]
    except ClkitError:  # the doctor says so himself
        return
    for folder in left:
        name = folder.relative_to(run.path).as_posix()
        yield Checked(name, "unknown", "its model was to go (saving.models: last), but for a kill; --resume removes it")


def gone_on_from(stages: Sequence[PlannedStage], finished: Sequence[Path], unfinished: Unfinished | None) -> list[Path]:
    """The folders of the stages that the model to be loaded went through."""
    index = len(finished)
    trained = [*finished, unfinished.folder] if unfinished and unfinished.trained else [*finished]
    return trained[lineage(stages, index)] if index < len(stages) else []


def mark_trained(stage: Path, fitted: Fitted) -> None:
    """Say that a stage is trained and all its files are written; from now on it needs no checkpoint."""
    for file in stage.rglob("*"):
        if file.relative_to(stage).parts[0] != CHECKPOINTS:
            sync(file)
    Done(asdict(fitted), seal_files(stage, STAGE_PARTS)).write(stage, TRAINED_FILE)
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)
