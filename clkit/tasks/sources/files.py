"""Reads a task from JSON, CSV, Parquet or plain text files of the user's own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from clkit.errors import DataError
from clkit.section import DataPath
from clkit.tasks.records import DELIMITERS, csv_records, documents, json_records, kind_of_file, parquet_records
from clkit.tasks.source import (
    LABEL_NAMES,
    MESSAGES,
    TEXT,
    Columns,
    LabelNames,
    ReadRows,
    Source,
    SourceSection,
    Wanted,
    names_by_value,
    refuse_beside_messages,
)

_JSON = (".jsonl", ".json")


class FilesSource(SourceSection):
    """Files of the user's own: JSON, CSV, Parquet, or plain text, whose documents are parted by blank lines."""

    rank: ClassVar[int] = 3
    kind: Literal["files"] = Field(
        description="JSON (`.jsonl`, `.json`), CSV (`.csv`, `.tsv`), Parquet (`.parquet`) or, for pretraining, `.txt` "
        "files; all but Parquet also compressed by gzip (`.csv.gz`)."
    )
    train: DataPath = Field(description="File to train on.")
    test: DataPath | None = Field(None, description="File to test on; every task needs one.")
    text: str = Field("text", description=TEXT)
    label: str | None = Field(
        "label", description="Column that holds the label or the answer; null for plain text, as pretraining reads it."
    )
    messages: str | None = Field(None, description=MESSAGES + " JSON or Parquet.")
    label_names: LabelNames = Field(None, description=LABEL_NAMES)
    delimiter: str | None = Field(
        None,
        pattern='^[^"\\r\\n]$',
        description="What parts the fields of CSV files, where it is no comma (in `.tsv`: tab).",
    )

    @model_validator(mode="after")
    def _has_one_kind_of_input(self) -> FilesSource:
        own = {key: None if value == key else value for key, value in (("text", self.text), ("label", self.label))}
        refuse_beside_messages(self.messages, **own, label_names=self.label_names)
        if self.delimiter is not None and not {kind_of_file(Path(file)) for file in self._files.values()} & {
            *DELIMITERS
        }:
            raise ValueError("delimiter: it is for .csv and .tsv files, and none is given; remove it")
        if self._plain == [*self._files]:
            missing = self.missing or None
            columns = {**own, "messages": self.messages, "missing": missing, "label_names": self.label_names}
            useless = next((key for key, value in columns.items() if value is not None), None)
            if useless is not None:
                raise ValueError(f"{useless}: a .txt file has no columns; remove it")
        return self

    @property
    def _files(self) -> dict[str, Path]:
        """The files by their use."""
        return {use: Path(file) for use, file in (("train", self.train), ("test", self.test)) if file is not None}

    @property
    def _plain(self) -> list[str]:
        """The uses of files that hold nothing but text."""
        return [use for use, file in self._files.items() if kind_of_file(file) == ".txt"]

    @property
    def unlabelled(self) -> str | None:
        none = "label" if self.label is None and self.messages is None else None
        return next(iter(self._plain), none)

    @property
    def untested(self) -> str | None:
        return "test: missing (needed: file to test on)" if self.test is None else None

    def lacks(self, wanted: Wanted) -> list[str]:
        return [
            fault
            for use, path in self._files.items()
            for fault in self.faults(use, path, lambda most, path=path: self._rows(path, wanted, most))  # type: ignore[misc]
        ]

    def of_tests(self) -> FilesSource | None:
        gone = self.test is not None and not Path(self.train).exists()
        return self.model_copy(update={"train": self.test}) if gone else None

    def place(self, split: str) -> str:
        return str(self.test if split == "test" else self.train)

    def size(self) -> int:
        return sum(file.stat().st_size for file in self._files.values())

    def read(self, wanted: Wanted) -> Source:
        rows = {use: self._rows(file, wanted) for use, file in self._files.items() if wanted.tested or use == "train"}
        names = names_by_value(self.label_names)
        return Source(rows["train"], rows.get("test"), tuple(dict.fromkeys(names.values())) if names else None)

    def _rows(self, path: Path, wanted: Wanted, most: int | None = None) -> ReadRows:
        columns = self.columns(wanted, self.text, self.label, self.messages, names_by_value(self.label_names))
        kind = kind_of_file(path)
        if kind in _JSON:
            records = json_records(path)
        elif kind in DELIMITERS:
            records = csv_records(path, columns.needed, self.delimiter or DELIMITERS[kind])
        elif kind == ".parquet":
            records = parquet_records(path)
        elif kind == ".txt" and wanted.plain_text:
            records, columns = documents(path), Columns("text", None)
        elif path.is_dir():
            raise DataError(
                f"{path}: is a folder; give one file of it, or read it by source.kind: folder (CL_Benchmark's "
                "layout) or hub (what `datasets` saved)"
            )
        else:
            known = (*_JSON, *DELIMITERS, ".parquet")
            *kinds, last = (*known, ".txt") if wanted.plain_text else known
            raise DataError(f"{path}: unknown kind of file '{path.suffix}'; give a {', '.join(kinds)} or {last} file")
        return self.rows(islice(records, most), columns, str(path))
