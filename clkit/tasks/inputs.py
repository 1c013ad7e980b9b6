"""What a model is asked beside its data: texts as they are given, or the records of a file or of standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkit.errors import DataError
from clkit.tasks.conversations import NO_TURNS, Example, read_question
from clkit.tasks.records import (
    DELIMITERS,
    Template,
    check_columns,
    csv_records,
    json_records,
    kind_of_file,
    kind_of_value,
    parquet_records,
    text_lines,
)
from clkit.tasks.sections import TaskRecipe
from clkit.tasks.stored import stored, string_features
from clkit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

#: Stands for standard input, as other programs have it.
STDIN = Path("-")
#: Keys that every record may have, whatever the columns of the task's data are.
TEXT, MESSAGES = "text", "messages"


def given(texts: Sequence[str]) -> Dataset:
    """Texts as the rows of a split.

    Raises:
        DataError: one is empty, or no text.
    """
    return _rows(((f"text {number}", text) for number, text in enumerate(texts, start=1)), None)


def read(path: Path, task: TaskRecipe | None) -> Dataset:
    """The inputs in a file as the rows of a split, in its order, each with its place.

    A `.csv`, `.tsv` or `.parquet` file has columns; in a `.jsonl` or `.json` file, and in any other whose first line is
    an object, each record is one: with `text`, with `messages` (a conversation, whose last user's turn is answered), or
    with the columns of the task's own data. Otherwise each line is a text.

    Raises:
        DataError: it cannot be read, or a record holds no input; says which line.
    """
    name = "standard input" if path == STDIN else str(path)
    if path != STDIN and not path.exists():
        raise DataError(f"{path}: no such file; correct the path, or give the texts themselves")
    kind = kind_of_file(path)
    if kind in DELIMITERS:
        own = getattr(task.source, "delimiter", None) if task else None
        records = csv_records(path, (), own or DELIMITERS[kind])
    elif kind == ".parquet":
        records = parquet_records(path)
    else:
        lines = list(_standard_input() if path == STDIN else text_lines(path))
        while lines and not lines[-1].strip():
            lines.pop()
        objects = kind in (".jsonl", ".json") or next(iter(lines), "").lstrip().startswith("{")
        places = ((f"{name}:{number}", line.rstrip("\r\n")) for number, line in enumerate(lines, start=1))
        records = json_records(path, name, lines) if objects else places
    rows = _rows(records, task)
    if not len(rows):
        raise DataError(f"{name}: holds no input; give at least one")
    return rows


def asked(recipe: TaskRecipe | None, labels: Sequence[str] | None, rows: Dataset) -> Task:
    """A task whose test split is what is asked; without a recipe one with neither instruction nor labels."""
    # Nobody knows the answer, and a classifier reads an answer only if it is a label.
    rows = rows.add_column("answer", [labels[0] if labels else ""] * len(rows))
    name = recipe.name if recipe else "free"
    return Task(
        name=name,
        group=(recipe and recipe.group) or name,
        instruction=recipe.instruction if recipe else None,
        labels=None if labels is None else tuple(labels),
        options=recipe is None or recipe.options,
        train=rows.select([]),
        test=rows,
    )


def _rows(records: Iterable[tuple[str, Any]], task: TaskRecipe | None) -> Dataset:
    found = [(place, _input(record, place, task)) for place, record in records]
    texts, turns = ([getattr(example, part) for _, example in found] for part in ("text", "turns"))
    columns = {"text": texts, "turns": turns, "place": [place for place, _ in found]}
    return stored([columns], string_features(*columns))


def _input(record: Any, where: str, task: TaskRecipe | None) -> Example:
    if isinstance(record, DataError):
        raise record
    if isinstance(record, str):
        record = {TEXT: record}
    if not isinstance(record, Mapping):
        raise DataError(
            f"{where}: the record is {kind_of_value(record)}, not an object or a text; correct or remove it"
        )
    own, conversation = (getattr(task.source, key, None) if task else None for key in ("text", "messages"))
    for column in (conversation, MESSAGES):
        if column is not None and column in record:
            return read_question(record[column], where, column)
    template = Template(own or TEXT)
    if not all(column in record for column in template.columns):
        template = Template(TEXT)
    check_columns(record, template.columns, where)
    return Example(template.render(record, where), None, NO_TURNS)


def _standard_input() -> Iterator[str]:
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input: byte {error.start + 1:,} is not UTF-8; write it as UTF-8") from None
    return io.StringIO(text, newline="\n")
