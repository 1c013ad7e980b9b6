"""Reads a task from JSONL or CSV files of the user's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clkit.errors import DataError
from clkit.recipe.task_recipe import FilesSource
from clkit.tasks.rows import ReadRows, Source, Template, answer_text, check_columns, json_fault, read_utf8

# Python's own limit is 128 KiB per field, shorter than a long document; this is the largest that every system takes.
_LONGEST_FIELD = 2**31 - 1

Record = tuple[int, dict[str, Any]]


def read_files(source: FilesSource) -> Source:
    """The task in those files.

    Raises:
        DataError: a file is missing or malformed, or lacks a column; names the file and the line.
    """
    template = Template(source.text)
    return Source(
        train=_rows(Path(source.train), template, source.label),
        test=_rows(Path(source.test), template, source.label),
    )


def _rows(path: Path, template: Template, label: str) -> ReadRows:
    readers = {".jsonl": _jsonl, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; give a {' or '.join(readers)} file")
    lines, inputs, answers = [], [], []
    for line, record in readers[path.suffix.lower()](path, (*template.columns, label)):
        where = f"{path}:{line}"
        lines.append(line)
        inputs.append(template.render(record, where))
        answers.append(answer_text(record[label], where, label))
    if not inputs:
        raise DataError(f"{path}: no records; it must hold at least one")
    return ReadRows(inputs, answers, lambda index: f"{path}:{lines[index]}")


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
