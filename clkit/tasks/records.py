"""The records of CSV, JSON, Parquet and text files, each with its place, as they are written; and checks of values."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from clkit.errors import DataError, first_line
from clkit.section import special
from clkit.tasks.json_text import JSON, Unread, json_fault
from clkit.wording import did_you_mean

_COLUMN = re.compile(r"\{([^{}]+)\}")


class Template:
    """How an input is made of columns: a column's name, or a text with columns in braces.

    Args:
        may_be_empty: as a document may; an input without a word asks nothing.
    """

    def __init__(self, text: str, *, may_be_empty: bool = False) -> None:
        self.text = text
        self.may_be_empty = may_be_empty
        self.columns = tuple(dict.fromkeys(_COLUMN.findall(text))) or (text,)
        self.is_column = self.columns == (text,)

    def render(self, row: Mapping[str, Any], where: str) -> str:
        """The input of a row. An empty column of a template leaves its place empty (a review without a title).

        Raises:
            DataError: the input is empty, or a column holds something other than text.
        """
        if self.is_column:
            text = row[self.text]
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: '{self.text}' is {kind_of_value(text)}, not text; correct or remove this record"
                )
        else:
            text = _COLUMN.sub(lambda match: answer_text(row[match[1]], where, match[1]) or "", self.text)
        if blank(text) and not self.may_be_empty:
            raise DataError(f"{where}: the text is empty ('{self.text}'); correct or remove this record")
        return valid_unicode(text, where)


def blank(text: str) -> bool:
    """Whether a text shows nothing: white space, and characters of no width such as U+200B, that `strip` leaves."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def answer_text(value: Any, where: str, column: str) -> str | None:
    """A value of a label column as text; None stays None, and so do the NaN and the 3.0 that readers make of empty
    cells and of the whole numbers beside them: they become None and `3`.

    Raises:
        DataError: the value is a list or an object.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return valid_unicode(value, where)
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: '{column}' is a number too large to read; correct or remove this record")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float | Decimal):
        return str(value)
    raise DataError(
        f"{where}: '{column}' is {kind_of_value(value)}, not text or a number; correct or remove this record"
    )


def check_columns(columns: Iterable[str], needed: Iterable[str], where: str, delimiter: str = ",") -> None:
    """Check that the needed columns are there.

    Args:
        delimiter: by which the header was read.

    Raises:
        DataError: a column is missing; names the columns there are.
    """
    known = list(columns)
    for column in needed:
        if column not in known:
            header = delimiter.join(known)
            for mark in ";\t|,".replace(delimiter, ""):
                names = (name.strip(" \"'") for name in re.split(rf"[{mark}{re.escape(delimiter)}]", header))
                if mark in header and column in names:
                    usual = "tabs" if delimiter == "\t" else "commas"
                    raise DataError(
                        f"{where}: no column '{column}': the header has {mark!r} as delimiter ({header!r}); write the "
                        f"file with {usual}, or set source.delimiter: {json.dumps(mark)} (kind: files)"
                    )
            hint = did_you_mean(column, known)
            raise DataError(f"{where}: no column '{column}'{hint} (columns: {', '.join(known) or 'none'})")


def text_lines(path: Path, most: int = -1) -> Iterator[str]:
    """The lines of a UTF-8 file, with or without a byte-order mark; line ends, of whatever kind, stay as they are.

    Args:
        most: characters of a piece; longer lines come in several.

    Raises:
        DataError: the file is missing, special, unreadable, empty, or not UTF-8.
    """
    empty, number = True, 1
    try:
        kind = special(path)
        if kind is not None:
            raise DataError(f"{path}: is not a file but {kind}; correct the path")
        with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            while line := lines.readline(most):
                if "\0" in line:
                    raise DataError(f"{path}:{number}: a byte of zero is no text; save the file as UTF-8")
                empty, number = empty and not line.strip(), number + line.endswith(("\n", "\r"))
                yield line
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; put it there, or correct the path in the recipe") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is damaged or not compressed by gzip ({error}); compress it anew") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path)) from error
    if empty:
        raise DataError(f"{path}: the file is empty; it must hold at least one record")


def _opened(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends with `.gz`."""
    return cast(BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def kind_of_file(path: Path) -> str:
    """The ending that says what a file holds, in small letters; a `.gz` behind it says only that it is compressed."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _not_utf8(path: Path) -> str:
    """Says which line of a file is not UTF-8: a file that is read in pieces does not know."""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}:{number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
    return f"{path}: is not UTF-8; save the file as UTF-8"


def valid_unicode(text: str, where: str) -> str:
    """``text``, checked for halves of surrogate pairs, which JSON can spell but no tokenizer can read.

    Raises:
        DataError: there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError(f"{where}: half of a surrogate pair ({half}); write the whole character") from None
    return text


def kind_of_value(value: Any) -> str:
    """What a value of a record is, as an error says it."""
    names = {type(None): "null", str: "text", bool: "true or false", list: "a list", dict: "an object"}
    names |= dict.fromkeys((int, float, Decimal), "a number")
    return names.get(type(value), f"a value of the kind {type(value).__name__}")  # as Parquet has them: bytes, dates


# Python's own limit is 128 KiB per field, shorter than a long document; this is the largest that every system takes.
_LONGEST_FIELD = 2**31 - 1
#: Characters of a JSON list that are read at a time.
_PIECE = 2**16
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
    """The values of a JSON list, whose places count records, or those of a file with one on each line.

    Args:
        name: of the file, where it is not its path.
        lines: of the file, where they are read already.

    Raises:
        DataError: a list is broken.
    """
    if lines is None:
        start = next((piece for piece in text_lines(path, _PIECE) if piece.strip()), "")
        lines = text_lines(path, _PIECE if start.lstrip().startswith("[") else -1)
    lines, begun = iter(lines), False
    for number, line in enumerate(lines, start=1):
        place = f"{name or path}:{number}"
        if not begun and line.lstrip().startswith("["):
            yield from _listed(chain(["\n" * (number - 1), line], lines), name or str(path))
        elif line.strip():
            begun = True
            try:
                value = JSON.decode(line)
            except (ValueError, RecursionError) as error:
                value = DataError(
                    f"{place}: broken JSON ({json_fault(error)}); write one object per line, or a list of objects"
                )
            yield place, value


def _listed(pieces: Iterator[str], name: str) -> Records:
    """The values of a JSON list, read one by one."""
    unread, number = Unread(pieces), 1
    unread.next()
    unread.skip()
    try:
        closed = unread.next() == "]"
        while not closed:
            yield f"{name}, record {number}", unread.value()
            closed = unread.next() == "]"
            if not closed:
                if unread.next() != ",":
                    raise unread.fault("Expecting ',' delimiter")
                unread.skip()
            number += 1
        unread.skip()
        if unread.next():
            raise unread.fault("Extra data")
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else f", record {number}"
        raise DataError(f"{name}{where}: broken JSON ({json_fault(error)}); correct the file") from None


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
                if header[0].lower().startswith("sep="):
                    raise DataError(
                        f"{place}: {delimiter.join(header)!r} is a line for Excel and no header; remove it "
                        "(source.delimiter says what parts the fields)"
                    )
                if len(set(header)) != len(header):
                    raise DataError(f"{place}: a column's name stands twice; give each column its own")
                check_columns(header, needed, place, delimiter)
            elif len(fields) == len(header):
                yield place, dict(zip(header, fields, strict=True))
            else:
                wrong = f"the header has {len(header)} fields, this record {len(fields)}"
                advice = "put fields that hold commas or line breaks in double quotes"
                yield place, DataError(f"{place}: {wrong}; {advice}")
    except csv.Error as error:
        place = f"{name or path}:{line}"
        raise DataError(f"{place}: broken CSV in the record that starts here ({error}); correct it") from None


def parquet_records(path: Path) -> Records:
    """The rows of a Parquet file, which are read bit by bit.

    Raises:
        DataError: it is missing, or no whole Parquet file, or two of its columns have one name.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        if (kind := special(path)) is not None:
            raise DataError(f"{path}: is not a file but {kind}; correct the path")
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) != len(names):
                raise DataError(f"{path}: a column's name stands twice; give each column its own")
            rows = (row for batch in file.iter_batches(1000) for row in batch.to_pylist())
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; put it there, or correct the path in the recipe") from None
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({first_line(error)}); write it anew") from error
