"""Writes files so that a crash at any moment leaves the old content or the new, whole; and the log, line by line."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in the `with` block, which takes the place of ``path`` at its end, and is gone after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # nobody knows the temporary file
        del error.filename2
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at every moment the old content or the new is there, whole, even if the power fails."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON atomically, always in the same form.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    write_atomically(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line (`predictions.jsonl`), atomically."""
    write_atomically(path, jsonl(rows))


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object per line, always in the same form."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to disk."""
    if os.name == "nt":
        return  # Windows syncs neither folders nor files that are open for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems cannot sync folders; that must not end a run
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; a link, and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def now() -> str:
    """When an event was, as the log says it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def event_line(line: Mapping[str, Any]) -> str:
    """An event as one line of JSON. NaN and infinity, which JSON lacks, become "nan", "inf", "-inf"."""
    written = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    return json.dumps(written, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class RunLog:
    """`log.jsonl`, which a crash may leave with a line that is cut short."""

    path: Path

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the log (`event_line`) and flush it."""
        text = event_line(line)
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: keep this one apart from it
                    text = "\n" + text
            file.write(text.encode())

    def read(self) -> list[dict[str, Any]]:
        """The lines of the log, without those that are no JSON objects. Empty where nothing was logged."""
        return [line for line in map(_parsed, self._texts()) if line is not None]

    def unreadable(self) -> list[int]:
        """The numbers, from 1, of the lines that are no JSON objects."""
        return [number for number, text in enumerate(self._texts(), start=1) if text and _parsed(text) is None]

    def cut(self, stages: Mapping[str, float]) -> None:
        """Remove what the log says of stages that are not finished, before they are gone on with, and unreadable lines.

        Args:
            stages: for each of them the last step whose line stays. What has no step, as an evaluation, never does.
        """

        def stays(line: dict[str, Any] | None) -> bool:
            if line is None:
                return False
            stage, step = line.get("task", line.get("stage")), line.get("step")
            return stage not in [*stages] or (isinstance(step, int) and step <= stages[str(stage)])

        if self.path.is_file():
            write_atomically(self.path, "".join(f"{text}\n" for text in self._texts() if stays(_parsed(text))))

    def _texts(self) -> list[str]:
        return self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None
