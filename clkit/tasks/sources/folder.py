"""Reads a task from a folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clkit.errors import DataError
from clkit.tasks.rows import ReadRows, Source, Template, answer_text, check_columns, json_fault, read_utf8
from clkit.tasks.sections import FolderSource

_TEXT = Template("sentence")
_LABEL = "label"


def read_folder(source: FolderSource, needs_labels: bool, *, plain_text: bool = False) -> Source:
    """The task in that folder. `labels.json` is read only where the recipe does not give the labels itself.

    Args:
        plain_text: the texts are wanted only, so that neither `labels.json` nor labels are needed.

    Raises:
        DataError: the folder or a file is missing or malformed; names the file and the line or record.
    """
    folder = Path(source.folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold train.json, test.json and labels.json")
    read = _texts if plain_text else _examples
    return Source(
        train=read(folder / "train.json"),
        test=read(folder / "test.json"),
        labels=_labels(folder / "labels.json") if needs_labels else None,
    )


def _examples(path: Path) -> ReadRows:
    inputs, answers = [], []
    for where, record in _records(path, (*_TEXT.columns, _LABEL)):
        inputs.append(_TEXT.render(record, where))
        answers.append(answer_text(record[_LABEL], where, _LABEL))
    return ReadRows(inputs, answers, partial(_place, path))


def _texts(path: Path) -> ReadRows:
    template = Template(_TEXT.text, may_be_empty=True)
    texts = [template.render(record, where) for where, record in _records(path, template.columns)]
    return ReadRows(texts, [None] * len(texts), partial(_place, path))


def _place(path: Path, index: int) -> str:
    return f"{path}: record {index + 1}"


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file, each with its place; they have these columns."""
    for index, record in enumerate(_list(path)):
        where = _place(path, index)
        if not isinstance(record, dict):
            raise DataError(f'{where} is no object; write {{"label": ..., "sentence": ...}}')
        check_columns(record, columns, where)
        yield where, record


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
