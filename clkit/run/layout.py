"""What clkit writes where. Whatever else lies in a run folder is another's, and is never removed or replaced.

::

    runs/t5_order1-42/
      recipe.yaml               the resolved recipe
      env.json                  versions, seed, command; what the run read; the recipe's SHA-256, and the recipes from
                                before the run was grown
      lock.json .lock           who writes the run, while someone does (`clkit.run.lock`)
      log.jsonl                 one JSON object per line, while training
      filled.json               scores that were measured later, where there are any (`clkit.run.filled`)
      matrix.json metrics.json  exports: the scores of the stages' done.json, and what follows from them
      inspect/                  what `clkit inspect-magnitudes` measured
      trackers/                 what experiment trackers wrote, in forms of their own (`training.report_to`)
      tasks/00-zero-shot/       predictions.jsonl, done.json
      tasks/01-dbpedia/         the model or adapter, predictions.jsonl, and done.json, which is written last
                                and seals the other files (`clkit.run.seal`); 01-all-tasks/ where all tasks are learned
                                together. Until it is trained checkpoints/, from then on trained.json
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from clkit.errors import RunError, UsageError
from clkit.run.atomic import remove
from clkit.run.lock import LOCK_FILES
from clkit.run.seal import CHECKPOINTS, DONE_FILE, MODEL_PARTS, STATE_FILES, Done, read_object, text_sha256

RECIPE, ENVIRONMENT, LOG = "recipe.yaml", "env.json", "log.jsonl"
MATRIX, METRICS = EXPORTS = ("matrix.json", "metrics.json")
TASKS, INSPECT, TRACKERS, FILLED = "tasks", "inspect", "trackers", "filled.json"
#: The number of this layout, in `env.json`. Its key is what tells a run from a folder of the user's.
FORMAT = 1
#: In `env.json` while the run's recipe is replaced by one with further tasks: the SHA-256 of that.
GROWING = "growing"
#: In `env.json` the tasks whose texts were taken out and when (in `done.json` too); the one whose texts are just now.
FORGOTTEN, FORGETTING = "forgotten", "forgetting"
#: In `env.json` which trackers follow the run, each with what it calls the run.
TRACKED = "tracked"
#: Keys of `env.json` that hold objects.
OBJECTS = ("read", "versions", "former_recipes", FORGOTTEN, TRACKED)
#: In `env.json` of a run without training (`clkit measure`): the models that were measured, and their fingerprints.
MEASURED = "measured"
ZERO_SHOT = "zero-shot"
TRAINED_FILE = "trained.json"
#: What clkit writes into the run folder itself.
RUN_FILES = frozenset({RECIPE, ENVIRONMENT, LOG, FILLED, *EXPORTS, *LOCK_FILES})
#: What it writes into a stage's folder, beside what the stage's manifest names.
PREDICTIONS = "predictions.jsonl"
STAGE_FILES = frozenset({DONE_FILE, TRAINED_FILE, PREDICTIONS, *STATE_FILES})
#: What of it a stage's manifest names.
STAGE_PARTS = frozenset({*STAGE_FILES, *MODEL_PARTS})
#: What `clkit inspect-magnitudes` leaves in `inspect/`.
INSPECTED = frozenset({".json", ".parquet", ".png", ".svg"})
#: Endings of files that hold weights.
WEIGHTS = ".safetensors"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_STAGE = re.compile(r"(\d{2,})-(.+)")


class StageFolder(NamedTuple):
    """The folder of a stage that was begun: 0 is the zero-shot evaluation, the trainings count from 1."""

    number: int
    name: str
    path: Path

    @property
    def is_finished(self) -> bool:
        return (self.path / DONE_FILE).is_file()


def stage_folders(run: Path) -> list[StageFolder]:
    """Every stage of a run that was begun, in order."""
    found = []
    for folder in (run / TASKS).glob("*-*"):
        parts = _STAGE.fullmatch(folder.name)
        if parts and folder.is_dir():
            found.append(StageFolder(int(parts[1]), parts[2], folder))
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether clkit made a run here. Other programs write an `env.json` too, without clkit's key."""
    try:
        return "format" in read_object(folder / ENVIRONMENT)
    except RunError:
        return False


def enclosing_run(path: Path) -> Path | None:
    """The run that a file or folder lies in, or would."""
    return next((folder for folder in path.resolve().parents if is_run(folder)), None)


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, which may yet have to be made; None where it can.

    Raises:
        OSError: a name is too long.
    """
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not place.is_dir():
        return f"'{place}' is no folder"
    for missing in [*(place / part for part in folder.parts[len(place.parts) :]), folder]:
        with suppress(FileNotFoundError):
            os.lstat(missing)  # the system says that a name is too long where the folder that holds it is there
    try:
        with TemporaryFile(dir=place):  # permissions do not tell of `/proc`, or of a disk that is mounted to be read
            return None
    except OSError as error:
        return f"nothing can be written into '{place}' ({error.strerror or error})"


def check_target(
    target: Path,
    option: str,
    *,
    replace: bool,
    files: Sequence[str] = (),
    own: Path | None = None,
    reads: Sequence[Path] = (),
) -> None:
    """Refuse to write at a path of the user's where that would harm something, or cannot be done.

    Args:
        target: a file; or with ``files``, which are to be written into it, a folder, which may be missing.
        option: how the command names it.
        own: a run in whose `inspect/` the target may lie, where files are replaced unasked: they can be made again.
        reads: files and folders that the command itself reads, of which nothing may be replaced.

    Raises:
        UsageError: a file exists and may not be replaced, is read, or is no file; or it lies in a run; or nothing can
            be written there.
    """
    said = f"{option}: " if option else ""
    ours = own is not None and target.resolve().is_relative_to(own.resolve() / INSPECT)
    run = None if ours else target.resolve() if files and is_run(target) else enclosing_run(target)
    if run is not None:
        raise UsageError(f"{said}'{target}' lies in the run {run}, whose files are sealed; name a place elsewhere")
    folder = target if files else target.parent
    if not files and not folder.is_dir():
        raise UsageError(f"{said}there is no folder '{folder}'; make it first")
    if fault := unwritable(folder):
        raise UsageError(f"{said}{fault}; name a place elsewhere")
    for file in [target / name for name in files] or [target]:
        if file.is_dir():
            raise UsageError(f"{said}'{file}' is a folder; name a file")
        if file.exists() and not file.is_file():
            raise UsageError(f"{said}'{file}' is a device or a pipe; name a file")
        if os.path.lexists(file) and not (replace or ours):
            raise UsageError(f"{said}'{file}' exists; --force replaces it")
        if file.exists() and any(file.resolve().is_relative_to(read.resolve()) for read in reads):
            raise UsageError(f"{said}'{file}' is what this command reads; name a place elsewhere")


def check_links(run: Path) -> None:
    """Refuse symbolic links where a run is written, for they would lead the writing out of its folder.

    Raises:
        RunError: there is one; or a folder stands where a run has a file, or a file where it has a folder.
    """
    if (run / TASKS).exists() and not (run / TASKS).is_dir():
        raise RunError(f"{run / TASKS} is a file, and a run has a folder there; move it away")
    stages = [stage.path for stage in stage_folders(run)]
    for path in (*(run / name for name in (LOG, TASKS, *LOCK_FILES)), *stages):
        if path.is_symlink():
            raise RunError(
                f"{path} is a symbolic link, and clkit writes nothing outside of a run folder: "
                f"put what it leads to in its place ({path.readlink()})"
            )
    for path in (run / name for name in sorted(RUN_FILES)):
        if path.is_dir():
            raise RunError(f"{path} is a folder, and a run has a file there; move it away")


def strangers(run: Path) -> list[Path]:
    """The files, links and empty folders in a run folder that clkit did not put there as they are, in order.

    What was edited since is another's too: all but weights, which nobody edits and which take long to read.
    """
    return sorted(path for path in _files(run) if not _is_own(run, path))


def named_strangers(run: Path) -> str:
    """`strangers` in words, the first three by name; empty where there are none."""
    others = [str(path.relative_to(run)) for path in strangers(run)]
    more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
    return f"{', '.join(others[:3])}{more}"


def refuse_strangers(run: Path) -> None:
    """Make sure that nothing of the user's lies in a stage that was begun, and is removed to be begun anew.

    Raises:
        RunError: something does.
    """
    unfinished = [stage.path for stage in stage_folders(run) if not stage.is_finished]
    others = [path for path in strangers(run) if any(path.is_relative_to(stage) for stage in unfinished)]
    if others:
        raise RunError(f"{others[0]} is not clkit's, and lies in a stage that is begun anew; move it away")


def remove_own_files(run: Path) -> None:
    """Empty a run folder of what clkit wrote; the lock stays, and so does whatever is not clkit's.

    `env.json` goes last, so that an interrupted call can be repeated.
    """
    last = run / ENVIRONMENT
    own = [path for path in _files(run) if _is_own(run, path) and path.name not in LOCK_FILES and path != last]
    for path in own:
        remove_whole(path, run)
    last.unlink(missing_ok=True)


def remove_whole(path: Path, below: Path) -> None:
    """Remove a file or folder, and then those above it in which nothing is any more, up to ``below``."""
    remove(path)
    folder = path.parent
    while folder != below and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def leftovers(run: Path) -> list[Path]:
    """What a kill left behind: half-written files, and models on their way out that `done.json` no longer counts."""
    stages = stage_folders(run)
    found = [entry for folder in (run, *(stage.path for stage in stages)) for entry in _temporary(folder)]
    for stage in stages:
        with suppress(RunError):
            found += _model_left(stage.path, Done.read(stage.path)) if stage.is_finished else []
    return found


def _model_left(stage: Path, done: Done) -> list[Path]:
    """What is left of the model of a stage that does not keep it, and of the strategies' state that belongs to it."""
    try:
        written = [] if done.model_kept else [*Done.read(stage, TRAINED_FILE).files]
    except RunError:
        written = []
    return [stage / name for name in written if is_of_model(name) and (stage / name).exists()]


def is_of_model(name: str) -> bool:
    """Whether a stage's file, by its path in the folder, is of its model or of the state that belongs to it."""
    return name.split("/")[0] in (*MODEL_PARTS, *STATE_FILES)


def _temporary(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if is_temporary(entry.name) and entry.is_file()]


def is_temporary(name: str) -> bool:
    """Whether a file has the name under which clkit writes another, which it then replaces."""
    return _TEMPORARY.fullmatch(name) is not None


def _files(folder: Path) -> Iterator[Path]:
    """Everything in the folder but folders that hold something; what a link leads to is not looked into."""
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            yield from _files(path)
        else:
            yield path


def _is_own(run: Path, path: Path) -> bool:
    first, *below = path.relative_to(run).parts
    if first == TRACKERS and not (run / first).is_symlink():
        return True
    if path.is_symlink():
        return False
    if path.is_dir():
        stage = first == TASKS and _STAGE.fullmatch("".join(below[:1]))
        begun = len(below) == 1 or (below[1:2] == [CHECKPOINTS]) or (len(below) == 2 and below[1] in MODEL_PARTS)
        return bool(stage and begun) if below else first in (TASKS, INSPECT)
    if first == RECIPE and not below:
        known = read_object(run / ENVIRONMENT)
        return text_sha256(path.read_text("utf-8", "replace")) in map(known.get, ("recipe_sha256", GROWING))
    if not below:
        return first in RUN_FILES or is_temporary(first)
    if first == INSPECT:
        return len(below) < 3 and path.suffix in INSPECTED and not any(part.startswith(".") for part in below)
    if first != TASKS or len(below) < 2 or not _STAGE.fullmatch(below[0]):
        return False
    return _is_of_stage(run / TASKS / below[0], below[1:])


def _is_of_stage(stage: Path, parts: list[str]) -> bool:
    name = "/".join(parts)
    if any(part.startswith(".git") for part in parts):
        return False
    if name == DONE_FILE or is_temporary(name) or (len(parts) > 1 and parts[0] == CHECKPOINTS):
        return True
    try:
        done = Done.read(stage)
    except RunError:  # unfinished: its model may be half written
        return name in STAGE_FILES or (len(parts) > 1 and parts[0] in MODEL_PARTS)
    if name in done.files:
        return name.endswith(WEIGHTS) or done.holds(stage, name)
    return stage / name in _model_left(stage, done)
