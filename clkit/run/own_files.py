"""Which files of a run folder clkit wrote: nothing else is ever removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clkit.errors import RunError, UsageError
from clkit.run.lock import LOCK_FILE
from clkit.run.seal import CHECKPOINTS, DONE_FILE, MODEL_PARTS, STATE_FILES, Done

#: What clkit writes into the run folder itself.
RUN_FILES = frozenset({"recipe.yaml", "env.json", "log.jsonl", "matrix.json", "metrics.json", LOCK_FILE})
#: What it writes into a stage's folder, beside what the stage's manifest names.
STAGE_FILES = frozenset({DONE_FILE, "trained.json", "predictions.jsonl", *STATE_FILES})
#: What `clkit inspect-magnitudes` leaves in `inspect/`.
INSPECTED = frozenset({".json", ".jsonl", ".png", ".svg", ".csv", ".safetensors"})
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_STAGE = re.compile(r"\d{2,}-.+")


def strangers(folder: Path) -> list[Path]:
    """The files and links in a run folder that clkit did not write there, in order."""
    return sorted(path for path in _files(folder) if not _is_own(folder, path))


def remove_own_files(folder: Path) -> None:
    """Empty a run folder of what clkit wrote; the lock stays, and so does whatever is not clkit's.

    `env.json` goes last, so that an interrupted call can be repeated.
    """
    last = folder / "env.json"
    for path in _files(folder):
        if _is_own(folder, path) and path.name != LOCK_FILE and path != last:
            path.unlink()
    for below in sorted(folder.rglob("*"), reverse=True):
        if below.is_dir() and not below.is_symlink() and not any(below.iterdir()):
            below.rmdir()
    last.unlink(missing_ok=True)


def check_target(file: Path, option: str, *, replace: bool) -> None:
    """Refuse to write a file of the user's where that would harm another one, as `cp` does.

    Raises:
        UsageError: there is no such folder, the file exists and may not be replaced, or it lies in a run.
    """
    if not file.parent.is_dir():
        raise UsageError(f"{option}: there is no folder '{file.parent}'; make it first")
    run = next((folder for folder in file.resolve().parents if (folder / "env.json").is_file()), None)
    if run is not None:
        raise UsageError(f"{option}: '{file}' lies in the run {run}, whose files are sealed; name a file elsewhere")
    if file.is_dir():
        raise UsageError(f"{option}: '{file}' is a folder; name a file")
    if file.exists() and not replace:
        raise UsageError(f"{option}: '{file}' exists; --force replaces it")


def _files(folder: Path) -> Iterator[Path]:
    """Everything in the folder that is not a folder itself; what a link leads to is not looked into."""
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _is_own(folder: Path, path: Path) -> bool:
    first, *below = path.relative_to(folder).parts
    if path.is_symlink():
        return False
    if not below:
        return first in RUN_FILES or _TEMPORARY.fullmatch(first) is not None
    if first == "inspect":
        return len(below) < 3 and path.suffix in INSPECTED and not any(part.startswith(".") for part in below)
    if first != "tasks" or len(below) < 2 or not _STAGE.fullmatch(below[0]):
        return False
    return _is_of_stage(folder / "tasks" / below[0], below[1:])


def _is_of_stage(stage: Path, parts: list[str]) -> bool:
    if len(parts) == 1:
        return parts[0] in STAGE_FILES or _TEMPORARY.fullmatch(parts[0]) is not None
    if any(part.startswith(".git") for part in parts):
        return False
    try:
        sealed = Done.read(stage).files
    except RunError:  # unfinished: its model may be half written, and its checkpoints have manifests of their own
        return parts[0] in (*MODEL_PARTS, CHECKPOINTS)
    return parts[0] == CHECKPOINTS or sealed is None or "/".join(parts) in sealed
