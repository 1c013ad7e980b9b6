"""Reads a task from JSONL, CSV or plain text files of the user's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clkit.errors import DataError
from clkit.tasks.conversations import read_conversation
from clkit.tasks.rows import ReadRows, Source, Template, answer_text, check_columns, json_fault, read_utf8
from clkit.tasks.sections import FilesSource

# Python's own limit is 128 KiB per field, shorter than a long document; this is the largest that every system takes.
_LONGEST_FIELD = 2**31 - 1

Record = tuple[int, dict[str, Any]]


def read_files(source: FilesSource, *, plain_text: bool = False) -> Source:
    """The task in those files.

    Args:
        plain_text: the texts are wanted only, so that a `.txt` file will do and a column of labels is not needed.

    Raises:
        DataError: a file is missing or malformed, or lacks a column; names the file and the line.
    """
    read = _read_texts if plain_text else _read_examples if source.messages is None else _read_conversations
    return Source(train=read(Path(source.train), source), test=read(Path(source.test), source))


def _read_examples(path: Path, source: FilesSource) -> ReadRows:
    template = Template(source.text)
    lines, inputs, answers = [], [], []
    for line, record in _records(path, (*template.columns, source.label)):
        where = f"{path}:{line}"
        lines.append(line)
        inputs.append(template.render(record, where))
        answers.append(answer_text(record[source.label], where, source.label))
    return ReadRows(inputs, answers, lambda index: f"{path}:{lines[index]}")


def _read_conversations(path: Path, source: FilesSource) -> ReadRows:
    column = str(source.messages)
    found = [
        (line, read_conversation(record[column], f"{path}:{line}", column))
        for line, record in _records(path, (column,))
    ]
    inputs, answers, turns = zip(*(conversation for _, conversation in found), strict=True)
    return ReadRows(inputs, answers, lambda index: f"{path}:{found[index][0]}", turns)


def _read_texts(path: Path, source: FilesSource) -> ReadRows:
    if path.suffix.lower() == ".txt":
        texts = list(_documents(path))
    else:
        template = Template(source.text, may_be_empty=True)
        records = _records(path, template.columns, also=[".txt"])
        texts = [(line, template.render(record, f"{path}:{line}")) for line, record in records]
    return ReadRows([text for _, text in texts], [None] * len(texts), lambda index: f"{path}:{texts[index][0]}")


def _documents(path: Path) -> Iterator[tuple[int, str]]:
    """The documents of a plain text file, which blank lines part, each with the number of its first line."""
    document: list[str] = []
    for number, line in enumerate([*read_utf8(path).replace("\r\n", "\n").split("\n"), ""], start=1):
        if line.strip():
            document.append(line)
        elif document:
            yield number - len(document), "\n".join(document)
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
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
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
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), strict=True)
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
