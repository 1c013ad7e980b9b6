"""Reads a task from a folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from clkit.errors import DataError
from clkit.section import DataPath
from clkit.tasks.rows import Columns, ReadRows, Source
from clkit.tasks.source import BEGINNING, SourceSection, Wanted
from clkit.tasks.values import check_columns, json_fault, read_utf8

_SPLITS = ("train.json", "test.json")
_LABELS = "labels.json"
#: Letters of a file; one that is larger is not read whole to see whether it is of use.
_SMALL = 200_000


class FolderSource(SourceSection):
    """A folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

    rank: ClassVar[int] = 1
    kind: Literal["folder"] = Field(description="A folder in the CL_Benchmark layout.")
    folder: DataPath = Field(description="Folder with `train.json`, `test.json` and `labels.json`.")

    def missing(self, wanted: Wanted) -> list[str]:
        if not Path(self.folder).is_dir():
            return [f"folder: no folder '{self.folder}'"]
        found = []
        for name in (*_SPLITS, _LABELS) if wanted.labels else _SPLITS:
            file = self._file(name)
            if not file.exists():
                found.append(f"folder: no file '{name}' in '{self.folder}'")
                continue
            try:
                _labels(file) if name == _LABELS else _rows(file, self._columns(wanted), _beginning(file))
            except DataError as error:
                found.append(f"folder: {error}")
        return found

    def read(self, wanted: Wanted) -> Source:
        if not Path(self.folder).is_dir():
            raise DataError(f"{self.folder}: no such folder; it must hold train.json, test.json and labels.json")
        files = [self._file(name) for name in _SPLITS]
        train, test = (_rows(file, self._columns(wanted), _list(file)) for file in files)
        return Source(train, test, _labels(self._file(_LABELS)) if wanted.labels else None)

    @staticmethod
    def _columns(wanted: Wanted) -> Columns:
        return Columns("sentence", None if wanted.plain_text else "label")

    def _file(self, name: str) -> Path:
        return Path(self.folder, name)


def _rows(path: Path, columns: Columns, values: list[Any]) -> ReadRows:
    return ReadRows(_records(path, columns.needed, values), columns, where=partial(_where, path))


def _where(path: Path, index: int) -> str:
    return f"{path}: record {index + 1}"


def _records(path: Path, columns: Sequence[str], values: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file with their indices; they have these columns."""
    for index, record in enumerate(values):
        where = _where(path, index)
        if not isinstance(record, dict):
            raise DataError(f'{where} is no object; write {{"label": ..., "sentence": ...}}')
        check_columns(record, columns, where)
        yield index, record


def _labels(path: Path) -> tuple[str, ...]:
    labels = _list(path)
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{path}: label {index + 1} is no text; write a list of strings")
        if label in labels[:index]:
            raise DataError(f"{path}: '{label}' stands more than once; each label must appear once")
    return tuple(labels)


def _list(path: Path) -> list[Any]:
    try:
        value = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(f"{path}:{line}: broken JSON ({json_fault(error)}); correct the file") from None
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: holds no list, or an empty one; write a JSON list")
    return value


def _beginning(path: Path) -> list[Any]:
    """The first records of a file, whose rest is not read where it is large."""
    if path.stat().st_size > _SMALL:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            text = file.read(_SMALL)
        if text.lstrip().startswith("["):
            return list(islice(_values(text), BEGINNING))
    return _list(path)[:BEGINNING]


def _values(text: str) -> Iterator[Any]:
    """The values of a JSON list up to where its text was cut off."""
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    with suppress(ValueError, RecursionError):
        while True:
            value, at = decoder.raw_decode(text, re.compile(r"[\s,]*").match(text, at).end())  # type: ignore[union-attr]
            yield value
