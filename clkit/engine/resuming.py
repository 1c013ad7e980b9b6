"""What `--resume` goes on from: the stage that an earlier run did not finish, and how far it came.

A stage is `done.json` when finished, `trained.json` when trained and saved but not yet tested, and otherwise the newest
whole one of its `checkpoints`. A folder with none of these is begun anew.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from clkit.engine.fit import Fitted
from clkit.engine.protocols import planned_stages
from clkit.errors import RecipeError, RunError
from clkit.recipe.recipe import Recipe
from clkit.recipe.saving import recipe_yaml
from clkit.run.atomic import sync
from clkit.run.comparison import compare_recipes
from clkit.run.folder import ZERO_SHOT, RunFolder
from clkit.run.seal import CHECKPOINTS, Done, seal_files
from clkit.training.checkpoints import Checkpoint, CheckpointFolder

TRAINED_FILE = "trained.json"


@dataclass(frozen=True)
class Unfinished:
    """How far a stage came: it is trained, or there is a checkpoint; never both."""

    index: int
    folder: Path
    trained: Fitted | None = None
    checkpoint: Checkpoint | None = None


def find_unfinished(run: RunFolder, recipe: Recipe, note: Callable[[str], None]) -> Unfinished | None:
    """The stage to go on with, where something of it can be used.

    Args:
        note: is told of checkpoints that are damaged.
    """
    stages = planned_stages(recipe)
    index = sum(stage.index > 0 for stage in run.stages())
    if index == len(stages):
        return None
    folder = run.stage_folder(index + 1, stages[index].name)
    if (folder / TRAINED_FILE).is_file():
        try:
            done = Done.read(folder, TRAINED_FILE)
            done.refuse_damage(folder)
            return Unfinished(index, folder, trained=Fitted(**done.payload))
        except RunError as error:
            note(f"{folder} is damaged and trained anew: {error}")
    checkpoint = CheckpointFolder(folder, run.log.path).newest(note)
    return Unfinished(index, folder, checkpoint=checkpoint) if checkpoint else None


def clear_for_resuming(run: RunFolder, recipe: Recipe, unfinished: Unfinished | None) -> None:
    """Remove what lies behind the point that the run goes on from: half-written files, and lines of the log."""
    run.discard_unfinished(but=unfinished.folder if unfinished else None)
    finished = {stage.name for stage in run.stages()}
    kept: dict[str, float] = {
        name: 0 for name in (ZERO_SHOT, *(stage.name for stage in planned_stages(recipe))) if name not in finished
    }
    if unfinished is not None:
        checkpoint = unfinished.checkpoint
        kept[planned_stages(recipe)[unfinished.index].name] = checkpoint.step if checkpoint else math.inf
        for entry in unfinished.folder.iterdir():
            if (entry.name == CHECKPOINTS) is not bool(checkpoint) or entry.name.startswith("."):
                _remove(entry)
        if checkpoint:
            CheckpointFolder(unfinished.folder, run.log.path).remove_after(checkpoint.step)
    run.log.cut(kept)


def mark_trained(stage: Path, fitted: Fitted) -> None:
    """Say that a stage is trained and all its files are written; from now on it needs no checkpoint."""
    for file in stage.rglob("*"):
        if file.relative_to(stage).parts[0] != CHECKPOINTS:
            sync(file)
    Done(asdict(fitted), seal_files(stage)).write(stage, TRAINED_FILE)
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


class ResumingDifferences(NamedTuple):
    """The dotted keys in which a recipe differs from the one that a run began with.

    Attributes:
        result: those that may change the result, so that the run cannot go on.
        other: those that only change what is logged or kept (`clkit.section.NOT_THE_RESULT`).
    """

    result: list[str]
    other: list[str]


def resuming_differences(run: RunFolder, recipe: Recipe) -> ResumingDifferences:
    """Compare a recipe with the one that a run began with. What that one lacks, being older, has its default.

    Raises:
        RunError: the run's recipe cannot be read, or this clkit does not know it any more.
    """
    try:
        began_with = Recipe.load(run.recipe_path)
    except RecipeError as error:
        made_by = run.environment().get("versions", {}).get("clkit", "another version")
        raise RunError(
            f"{error}; the run was made by clkit {made_by}: go on with that version, or train anew with --overwrite"
        ) from error
    different = compare_recipes(recipe_yaml(began_with), recipe_yaml(recipe))
    other = [key for key in different if not Recipe.decides_result(key)]
    return ResumingDifferences([key for key in different if key not in other], other)
