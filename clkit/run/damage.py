"""Refuses what of a run is not as it was written, before anything goes on from it; says what helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clkit.errors import RunError
from clkit.run.folder import RunFolder
from clkit.run.seal import Done


def refuse_damage(run: RunFolder, folders: Sequence[Path], parts: Sequence[str] | None = None) -> None:
    """Make sure that finished stages are as the run left them.

    Args:
        parts: the files and folders in them that matter; all where None.

    Raises:
        RunError: something in them is missing or was changed.
    """
    for folder in folders:
        try:
            Done.read(folder).refuse_damage(folder, parts)
        except RunError as error:
            raise RunError(f"{error}; {remedy(run, folder)}") from error


def remedy(run: RunFolder, folder: Path) -> str:
    """What helps where a stage is damaged: which folders to remove so that `--resume` makes the stage anew."""
    begun = run.stage_folders()
    (index,) = [stage.number for stage in begun if stage.path == folder]
    before = [stage.path for stage in begun if 0 < stage.number < index][-1:]
    later = any(stage.number > index for stage in begun)
    try:
        alone = run.recipe().get("protocol") == "per_task"  # then no stage goes on from another
        kept = all(Done.read(path).model_kept for path in before)
    except RunError:
        return f"put it back; `clkit doctor {run.path}` lists all that is damaged"
    if (index == 0 and later) or not (kept or alone):
        why = "the zero-shot test needs the untrained model" if index == 0 else "the model before it was not kept"
        return f"put it back, or train anew with --overwrite ({why})"
    more = " and the stages after it" if later else ""
    return (
        f"put it back, or remove {folder}{more} and make it anew: "
        f"`clkit train {run.recipe_path} --run {run.path} --resume`"
    )
