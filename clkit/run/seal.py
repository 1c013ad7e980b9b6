"""`done.json`: what a finished stage holds. It seals the stage, so that any later change of its files can be told.

::

    {
      "row": [0.98, null], ...                                             what the engine says of the stage
      "files": {"model/config.json": {"bytes": 1512, "sha256": "9f86…"}, ...}   each file, by its path in the folder
      "model_kept": true                                                   false once `saving.models: last` dropped it
      "sha256": "2c26…"                                                    of all the above
    }
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clkit.errors import RunError
from clkit.run.atomic import write_json

DONE_FILE = "done.json"
#: Parts of a stage's folder that hold its model: all of it, or its adapter.
MODEL_PARTS = ("model", "adapter")
#: Files of a stage's folder that hold the strategies' state: tensors, and everything else.
TENSORS, VALUES = STATE_FILES = ("strategies.safetensors", "strategies.json")
#: Holds what an unfinished stage resumes from; no part of a finished one.
CHECKPOINTS = "checkpoints"

#: In what state a file stops whoever needs it.
DAMAGED = ("missing", "changed")

State = Literal["whole", "missing", "changed", "unknown", "unfinished", "unchecked"]


class Checked(NamedTuple):
    """Something of a run, by its path in the run folder, and in what state it was found."""

    path: str
    state: State
    note: str = ""


class FileSeal(NamedTuple):
    """A file's size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Done:
    """The content of a `done.json`.

    Attributes:
        payload: what the engine says of the stage.
        files: its files by their POSIX path in the stage's folder.
        model_kept: whether the model is among them if the stage made one.
    """

    payload: dict[str, Any]
    files: dict[str, FileSeal]
    model_kept: bool = True

    def write(self, folder: Path, name: str = DONE_FILE) -> None:
        """Write it into the stage's folder, sealed."""
        files = {name: {"bytes": seal.size, "sha256": seal.sha256} for name, seal in self.files.items()}
        content = {**self.payload, "files": files, "model_kept": self.model_kept}
        write_json(folder / name, {**content, "sha256": _seal(content)})

    @classmethod
    def read(cls, folder: Path, name: str = DONE_FILE) -> Done:
        """Read it from a stage's folder.

        Raises:
            RunError: it is missing or damaged, or was changed after it was written.
        """
        content = read_object(folder / name)
        if content.pop("sha256", None) != _seal(content):
            raise RunError(f"{folder / name} was changed after it was written: its sha256 does not match")
        files = {name: FileSeal(file["bytes"], file["sha256"]) for name, file in content.pop("files").items()}
        done = cls(files=files, model_kept=content.pop("model_kept"), payload=content)
        done.refuse_another_name(folder)
        return done

    def refuse_another_name(self, folder: Path) -> None:
        """Make sure that a stage's folder has the number and name of the task that it learned.

        Raises:
            RunError: it was renamed or copied, and what it holds would be taken for another task's.
        """
        header = self.payload.get("matrix")
        number, _, name = folder.name.partition("-")
        if not isinstance(header, dict) or header.get("protocol") not in ("sequential", "per_task"):
            return
        tasks = header.get("tasks")
        if (
            isinstance(tasks, list)
            and number.isdecimal()
            and int(number) > 0
            and name not in tasks[int(number) - 1 : int(number)]
        ):
            raise RunError(
                f"{folder}: no stage of this run has that number and name (tasks: {', '.join(tasks)}); "
                "give the folder its old name, or remove it if it is a copy"
            )

    def refuse_damage(self, folder: Path, parts: Collection[str] | None = None) -> None:
        """Make sure that all files of the manifest are there and as they were written.

        Args:
            parts: the files and folders that matter; all where None.

        Raises:
            RunError: one is not, or cannot be read.
        """
        damaged = [found for found in self.check(folder, parts) if found.state in DAMAGED]
        if damaged:
            more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
            raise RunError(f"{folder / damaged[0].path} is {damaged[0].state} ({damaged[0].note}){more}")

    def holds(self, folder: Path, name: str) -> bool:
        """Whether a file of the manifest is there, as it was written."""
        return _compare(folder / name, self.files[name])[0] == "whole"

    def check(self, folder: Path, parts: Collection[str] | None = None) -> Iterator[Checked]:
        """Compare a stage's folder with its manifest: every file of either, by its path in the folder."""
        for name, seal in self.files.items():
            if parts is None or name.split("/")[0] in parts:
                yield Checked(name, *_compare(folder / name, seal))
        for name in _files_in(folder):
            if name not in self.files:
                yield Checked(name, "unknown")


def seal_files(folder: Path, parts: Collection[str] | None = None) -> dict[str, FileSeal]:
    """The manifest of a folder as it is now, or of those of its files and folders that are named."""
    names = [name for name in _files_in(folder) if parts is None or name.split("/")[0] in parts]
    return {name: FileSeal((folder / name).stat().st_size, _digest(folder / name)) for name in names}


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(path: Path, objects: Collection[str] = ()) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        objects: keys that hold objects too, where they are there.

    Raises:
        RunError: it cannot be read or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} must hold a JSON object")
    for key in objects:
        if not isinstance(data.get(key, {}), dict):
            raise RunError(f"{path}: '{key}' must be an object")
    return data


def _compare(path: Path, seal: FileSeal) -> tuple[State, str]:
    if not path.is_file():
        return "missing", f"{seal.size:,} bytes"
    size = path.stat().st_size
    if size != seal.size:
        return "changed", f"{size:,} bytes instead of {seal.size:,}"
    try:
        whole = _digest(path) == seal.sha256
    except OSError as error:
        return "changed", f"cannot be read: {error.strerror or error}"
    return ("whole", "") if whole else ("changed", "of the right size, but its sha256 differs")


def _files_in(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] not in (DONE_FILE, CHECKPOINTS))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(content: Mapping[str, Any]) -> str:
    return text_sha256(json.dumps(content, sort_keys=True, separators=(",", ":")))
