"""Whether a run may begin in a folder, or go on there. Nothing is changed, so it can be asked before anything slow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clkit.errors import UsageError
from clkit.run.layout import enclosing_run, is_run, is_temporary, named_strangers, unwritable
from clkit.run.lock import LOCK_FILES

_CHOOSE = "choose another folder with --run DIR"


def is_empty(path: Path) -> bool:
    """Whether nothing is there yet, or nothing but a lock, be it one that another process is just writing."""
    return not path.is_dir() or all(entry.name in LOCK_FILES or is_temporary(entry.name) for entry in path.iterdir())


def check_begun(path: Path) -> None:
    """Make sure that there is a run to go on with.

    Raises:
        UsageError: there is none.
    """
    _refuse_file(path)
    if is_empty(path):
        state = "is empty" if path.exists() else "does not exist"
        raise UsageError(f"{path} {state}, so there is no run to go on with; leave --resume out to begin one")


def check_free(path: Path, *, overwrite: bool = False, reads: Iterable[Path] = ()) -> None:
    """Make sure that a run can be made there (`RunFolder.create`).

    Args:
        reads: files and folders that the new run is made from.

    Raises:
        UsageError: the folder is not empty or lies in another run, or ``overwrite`` meets something that is no run
            folder, files that clkit did not write, or what the new run reads; or nothing can be written there.
    """
    _refuse_file(path)
    outer = enclosing_run(path)
    if outer is not None:
        raise UsageError(f"{path} lies in the run {outer}; {_CHOOSE}")
    if fault := unwritable(path):
        raise UsageError(f"{fault}; {_CHOOSE}")
    if is_empty(path):
        return
    if not overwrite:
        raise UsageError(
            f"{path} is not empty: continue that run with --resume, replace it with --overwrite, or {_CHOOSE}"
        )
    if not is_run(path):  # a recipe.yaml may well lie in a folder of the user's
        raise UsageError(
            f"{path} is not empty and no run folder (no env.json of clkit's), so --overwrite leaves it alone; {_CHOOSE}"
        )
    needed = next((read for read in reads if read.resolve().is_relative_to(path.resolve())), None)
    if needed is not None:
        raise UsageError(f"{path}: --overwrite would remove {needed}, which the new run reads; {_CHOOSE}")
    if others := named_strangers(path):
        raise UsageError(
            f"{path} holds files that clkit did not write, or not as they are ({others}), so --overwrite leaves it "
            f"alone; move them away, or {_CHOOSE}"
        )


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; choose a folder with --run DIR")
