"""The records of CSV, JSON and plain text files, each with its place, as they are written: no value becomes another."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clkit.errors import DataError
from clkit.tasks.values import check_columns, json_fault, text_lines

# Python's own limit is 128 KiB per field, shorter than a long document; this is the largest that every system takes.
_LONGEST_FIELD = 2**31 - 1
_SPACE = re.compile(r"\s*")
#: What parts the fields of a file, by its ending.
DELIMITERS = {".csv": ",", ".tsv": "\t"}

#: Each the place of a record, and the record or the error that says why there is none.
Records = Iterator[tuple[str, Any]]


def documents(path: Path) -> Records:
    """The documents of a plain text, which blank lines part, each with its first line."""
    document: list[str] = []
    number = 0
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            document.append(line.rstrip("\r\n"))
        elif document:
            yield f"{path}:{number - len(document)}", {"text": "\n".join(document)}
            document = []
    if document:
        yield f"{path}:{number + 1 - len(document)}", {"text": "\n".join(document)}


def json_records(path: Path, name: str | None = None, lines: Iterable[str] | None = None) -> Records:
    """The values of a JSON list, or those of a file with one on each line.

    Args:
        name: of the file, where it is not its path.
        lines: of the file, where they are read already.

    Raises:
        DataError: a list is broken.
    """
    lines = text_lines(path) if lines is None else iter(lines)
    begun = False
    for number, line in enumerate(lines, start=1):
        place = f"{name or path}:{number}"
        if not begun and line.lstrip().startswith("["):
            yield from _listed("\n" * (number - 1) + line + "".join(lines), name or str(path))
        elif line.strip():
            begun = True
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                value = DataError(f"{place}: broken JSON ({json_fault(error)}); write one object per line")
            yield place, value


def _listed(text: str, name: str) -> Records:
    """The values of a JSON list, read one by one."""
    read = json.JSONDecoder().raw_decode

    def after_space(at: int) -> int:
        return _SPACE.match(text, at).end()  # type: ignore[union-attr]

    at = after_space(text.index("[") + 1)
    line = 1 + text.count("\n", 0, at)
    closed = text[at : at + 1] == "]"
    try:
        while not closed:
            value, end = read(text, at)
            yield f"{name}:{line}", value
            end = after_space(end)
            closed = text[end : end + 1] == "]"
            if not closed and text[end : end + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
            following = after_space(end + 1)
            line, at = line + text.count("\n", at, following), following
        if text[at:].strip("] \t\r\n"):
            raise json.JSONDecodeError("Extra data", text, at)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else line
        raise DataError(f"{name}:{line}: broken JSON ({json_fault(error)}); correct the file") from None


def csv_records(path: Path, needed: Iterable[str], delimiter: str = ",", name: str | None = None) -> Records:
    """The records below a header, which has the columns ``needed`` and perhaps others.

    Args:
        name: of the file, where it is not its path.

    Raises:
        DataError: the header will not do, or a quote is not closed.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(text_lines(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            place, line = f"{name or path}:{line}", reader.line_num + 1  # a quoted field may span lines
            if not fields:
                continue
            if not header:
                header = fields
                if len(set(header)) != len(header):
                    raise DataError(f"{place}: a column's name stands twice; give each column its own")
                check_columns(header, needed, place)
            elif len(fields) == len(header):
                yield place, dict(zip(header, fields, strict=True))
            else:
                wrong = f"the header has {len(header)} fields, this record {len(fields)}"
                advice = "put fields that hold commas or line breaks in double quotes"
                yield place, DataError(f"{place}: {wrong}; {advice}")
    except csv.Error as error:
        place = f"{name or path}:{line}"
        raise DataError(f"{place}: broken CSV in the record that starts here ({error}); correct it") from None
