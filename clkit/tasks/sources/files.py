"""Reads a task from JSONL, CSV or plain text files of the user's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from clkit.errors import DataError
from clkit.section import DataPath
from clkit.tasks.rows import Columns, ReadRows, Source
from clkit.tasks.source import BEGINNING, MESSAGES, TEXT, SourceSection, Wanted, refuse_beside_messages
from clkit.tasks.values import check_columns, json_fault, read_utf8, text_lines

# Python's own limit is 128 KiB per field, shorter than a long document; this is the largest that every system takes.
_LONGEST_FIELD = 2**31 - 1

Record = tuple[int, dict[str, Any]]


class FilesSource(SourceSection):
    """Files of the user's own: JSONL, CSV, or plain text, whose documents are parted by blank lines."""

    rank: ClassVar[int] = 3
    kind: Literal["files"] = Field(description="JSONL (`.jsonl`), CSV (`.csv`) or, for pretraining, `.txt` files.")
    train: DataPath = Field(description="File to train on.")
    test: DataPath = Field(description="File to test on.")
    text: str = Field("text", description=TEXT)
    label: str = Field("label", description="Column that holds the label or the answer; pretraining reads none.")
    messages: str | None = Field(None, description=MESSAGES + " JSONL only.")

    @model_validator(mode="after")
    def _has_one_kind_of_input(self) -> FilesSource:
        own = {key: None if value == key else value for key, value in (("text", self.text), ("label", self.label))}
        refuse_beside_messages(self.messages, **own)
        if self._plain == ["train", "test"]:
            columns = {**own, "messages": self.messages}
            useless = next((key for key, value in columns.items() if value is not None), None)
            if useless is not None:
                raise ValueError(f"{useless}: a .txt file has no columns; remove it")
        return self

    @property
    def _plain(self) -> list[str]:
        """The uses of files that hold nothing but text."""
        return [use for use in ("train", "test") if getattr(self, use).lower().endswith(".txt")]

    @property
    def unlabelled(self) -> str | None:
        return next(iter(self._plain), None)

    @property
    def holds_conversations(self) -> bool:
        return self.messages is not None

    def missing(self, wanted: Wanted) -> list[str]:
        found = []
        for use in ("train", "test"):
            path = Path(getattr(self, use))
            if not path.exists():
                found.append(f"{use}: no file '{path}'")
                continue
            try:
                self._rows(path, wanted.plain_text, BEGINNING)
            except DataError as error:
                found.append(f"{use}: {error}")
        return found

    def read(self, wanted: Wanted) -> Source:
        train, test = (self._rows(Path(file), wanted.plain_text) for file in (self.train, self.test))
        return Source(train, test)

    def _rows(self, path: Path, plain_text: bool, most: int | None = None) -> ReadRows:
        columns = Columns(self.text, None if plain_text else self.label, self.messages)
        if plain_text and path.suffix.lower() == ".txt":
            columns = Columns("text", None)
            records = _documents(path)
        else:
            records = _records(path, columns.needed, also=[".txt"] if plain_text else [])
        return ReadRows(islice(records, most), columns, where=lambda line: f"{path}:{line}")


def _documents(path: Path) -> Iterator[Record]:
    """The documents of a plain text file, which blank lines part, each with the number of its first line."""
    document: list[str] = []
    for number, line in enumerate([*read_utf8(path).replace("\r\n", "\n").split("\n"), ""], start=1):
        if line.strip():
            document.append(line)
        elif document:
            yield number - len(document), {"text": "\n".join(document)}
            document = []


def _records(path: Path, columns: Sequence[str], also: Sequence[str] = ()) -> Iterator[Record]:
    """The records of a file, each with the number of its line; they have these columns, and others.

    Args:
        also: further kinds of files that would do.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv}
    if path.suffix.lower() not in readers:
        *kinds, last = [*readers, *also]
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; give a {', '.join(kinds)} or {last} file")
    empty = True
    for record in readers[path.suffix.lower()](path, columns):
        yield record
        empty = False
    if empty:
        raise DataError(f"{path}: no records; it must hold at least one")


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    # Not splitlines(): it also splits at characters such as U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text_lines(path, "\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.strip() == "[":
                raise DataError(
                    f"{path}:{number}: a JSON list begins here; write one object per line (`jq -c '.[]'` makes them)"
                ) from None
            raise DataError(f"{path}:{number}: broken JSON ({json_fault(error)}); write one object per line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: the record is no object; write one object per line")
        check_columns(record, columns, f"{path}:{number}")
        yield number, record


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(text_lines(path), strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            first_line, line = line, reader.line_num + 1  # a quoted field may span lines
            if not fields:
                continue
            if not header:
                header = fields
                if len(set(header)) != len(header):
                    raise DataError(f"{path}:{first_line}: a column's name stands twice; give each column its own")
                if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
                    raise DataError(f"{path}:{first_line}: no commas between the columns' names; write CSV with commas")
                check_columns(header, columns, f"{path}:{first_line}")
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}:{first_line}: the header has {len(header)} fields, this record {len(fields)}; "
                    "put fields that hold commas or line breaks in double quotes"
                )
            yield first_line, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: broken CSV in the record that starts here ({error}); correct it") from None
