"""Reads a task from a folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from clkit.errors import DataError
from clkit.section import DataPath
from clkit.tasks.records import blank, json_records, kind_of_value
from clkit.tasks.source import ReadRows, Source, SourceSection, Wanted
from clkit.tasks.sources.files import FilesSource

_SPLITS = ("train.json", "test.json")
_LABELS = "labels.json"


class FolderSource(SourceSection):
    """A folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

    rank: ClassVar[int] = 1
    kind: Literal["folder"] = Field(description="A folder in the CL_Benchmark layout.")
    folder: DataPath = Field(description="Folder with `train.json`, `test.json` and `labels.json`.")

    def lacks(self, wanted: Wanted) -> list[str]:
        if not Path(self.folder).is_dir():
            return [f"folder: no folder '{self.folder}'"]
        found = []
        for name in (*self._splits(wanted), *((_LABELS,) if wanted.labels else ())):
            file = self._file(name)
            if not file.exists():
                found.append(f"folder: no file '{name}' in '{self.folder}'")
            elif name == _LABELS:
                found += self.faults("folder", file, lambda _, file=file: _labels(file))  # type: ignore[misc]
            else:
                found += self.faults("folder", file, lambda most, file=file: self._rows(file, wanted, most))  # type: ignore[misc]
        return found

    def of_tests(self) -> FilesSource | None:
        train, test = map(self._file, _SPLITS)
        if train.exists() or not test.exists():
            return None
        same: dict[str, Any] = {"missing": self.missing, "on_bad_record": self.on_bad_record}
        return FilesSource(kind="files", train=str(test), test=str(test), text="sentence", label="label", **same)

    def place(self, split: str) -> str:
        return str(self._file({"test": "test.json", "labels": _LABELS}.get(split, "train.json")))

    def size(self) -> int:
        return sum(self._file(name).stat().st_size for name in _SPLITS)

    def read(self, wanted: Wanted) -> Source:
        if not Path(self.folder).is_dir():
            raise DataError(f"{self.folder}: no such folder; it must hold train.json, test.json and labels.json")
        train, *test = (self._rows(self._file(name), wanted) for name in self._splits(wanted))
        return Source(train, next(iter(test), None), _labels(self._file(_LABELS)) if wanted.labels else None)

    def _splits(self, wanted: Wanted) -> tuple[str, ...]:
        return _SPLITS if wanted.tested else _SPLITS[:1]

    def _rows(self, path: Path, wanted: Wanted, most: int | None = None) -> ReadRows:
        return self.rows(islice(json_records(path), most), self.columns(wanted, "sentence", "label"), str(path))

    def _file(self, name: str) -> Path:
        return Path(self.folder, name)


def _labels(path: Path) -> tuple[str, ...]:
    labels: list[str] = []
    for place, label in json_records(path):
        if not isinstance(label, str) or blank(label):
            what = kind_of_value(label) if not isinstance(label, str) else "empty"
            raise DataError(f"{place}: the label is {what}; write a list of texts")
        if label in labels:
            raise DataError(f"{place}: '{label}' stands more than once; each label must appear once")
        labels.append(label)
    if not labels:
        raise DataError(f"{path}: no records; it must hold at least one")
    return tuple(labels)
