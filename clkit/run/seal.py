"""`done.json`: what a finished stage holds. It seals the stage, so that any later change of its files can be told.

::

    {
      "row": [0.98, null], ...                                             what the engine says of the stage
      "files": {"model/config.json": {"bytes": 1512, "sha256": "9f86…"}, ...}   each file, by its path in the folder
      "model_kept": true                                                   false once `saving.models: last` dropped it
      "sha256": "2c26…"                                                    of all the above
    }

Before there were manifests, clkit wrote no `files`, `model_kept` and `sha256`; such a `done.json` is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
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
        files: its files by their POSIX path in the stage's folder; None where an older clkit made no manifest.
        model_kept: whether the model is among them if the stage made one.
    """

    payload: dict[str, Any]
    files: dict[str, FileSeal] | None
    model_kept: bool = True

    def write(self, folder: Path, name: str = DONE_FILE) -> None:
        """Write it into the stage's folder, sealed if it has a manifest."""
        content: dict[str, Any] = dict(self.payload)
        if self.files is not None:
            files = {name: {"bytes": seal.size, "sha256": seal.sha256} for name, seal in self.files.items()}
            content |= {"files": files, "model_kept": self.model_kept}
            content["sha256"] = _seal(content)
        write_json(folder / name, content)

    @classmethod
    def read(cls, folder: Path, name: str = DONE_FILE) -> Done:
        """Read it from a stage's folder.

        Raises:
            RunError: it is missing or damaged, or was changed after it was written.
        """
        content = read_object(folder / name)
        seal = content.pop("sha256", None)
        if seal is None and "files" not in content:
            return cls(content, None)
        if seal != _seal(content):
            raise RunError(f"{folder / name} was changed after it was written: its sha256 does not match")
        files = {name: FileSeal(file["bytes"], file["sha256"]) for name, file in content.pop("files").items()}
        return cls(files=files, model_kept=content.pop("model_kept"), payload=content)

    def refuse_damage(self, folder: Path) -> None:
        """Make sure that all files of the manifest are there and as they were written.

        Raises:
            RunError: one is not, or cannot be read; or there is no manifest.
        """
        if self.files is None:
            raise RunError("it has no manifest")
        for found in self.check(folder):
            if found.state in ("missing", "changed"):
                raise RunError(f"{found.path} is {found.state} ({found.note})")

    def check(self, folder: Path) -> Iterator[Checked]:
        """Compare a stage's folder with its manifest: every file of either, by its path in the folder.

        Raises:
            RunError: a file cannot be read.
        """
        known = self.files or {}
        for name, seal in known.items():
            yield Checked(name, *_compare(folder / name, seal))
        for name in _files_in(folder):
            if name not in known:
                yield Checked(name, "unknown" if self.files is not None else "unchecked")


def seal_files(folder: Path) -> dict[str, FileSeal]:
    """The manifest of a stage's folder as it is now."""
    return {name: FileSeal((folder / name).stat().st_size, _digest(folder / name)) for name in _files_in(folder)}


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        RunError: it cannot be read or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} must hold a JSON object")
    return data


def _compare(path: Path, seal: FileSeal) -> tuple[State, str]:
    if not path.is_file():
        return "missing", f"{seal.size:,} bytes"
    size = path.stat().st_size
    if size != seal.size:
        return "changed", f"{size:,} bytes instead of {seal.size:,}"
    if _digest(path) != seal.sha256:
        return "changed", "of the right size, but its sha256 differs"
    return "whole", ""


def _files_in(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] not in (DONE_FILE, CHECKPOINTS))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def _seal(content: Mapping[str, Any]) -> str:
    return text_sha256(json.dumps(content, sort_keys=True, separators=(",", ":")))
