"""Inputs of `clkit predict`: lines, objects, conversations, the task's own columns; each fault with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from clkit.errors import DataError
from clkit.tasks.inputs import read
from clkit.tasks.sections import TaskRecipe

TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
]


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def task(**columns: Any) -> TaskRecipe:
    source = {"kind": "files", "train": "a.jsonl", "test": "a.jsonl", **columns}
    return TaskRecipe.model_validate({"name": "t", "answers": "free", "source": source})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("in.txt", "one\ntwo \r\n\n", ["one", "two "]),
        ("in.txt", '{"text": "one"}\n\n{"text": "two", "label": 3}\n', ["one", "two"]),
        ("in.jsonl", '"one"\n{"text": "two"}\n', ["one", "two"]),
        ("in.json", '[{"text": "one"},\n "two"]\n', ["one", "two"]),
        ("in.csv", 'text,label\n"one, and",x\ntwo,y\n', ["one, and", "two"]),
        ("in.tsv", "label\ttext\nx\tone\n", ["one"]),
    ],
)
def test_every_kind_of_file(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    assert read(file(tmp_path, name, text), None)["text"][:] == expected


def test_packed_files_and_the_delimiter_of_the_tasks_data(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "in.parquet")
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    semicolons = task(train="a.csv", test="a.csv", delimiter=";")
    for path, own in (
        (tmp_path / "in.parquet", None),
        (tmp_path / "in.txt.gz", None),
        (file(tmp_path, "in.csv", "text;label\none;x\ntwo;y\n"), semicolons),
    ):
        assert read(path, own)["text"][:] == ["one", "two"]


def test_the_last_users_turn_of_a_conversation_is_asked(tmp_path: Path) -> None:
    asked = [*TURNS, {"role": "user", "content": "Why?"}]
    lines = [{"messages": TURNS}, {"messages": asked}, {"talk": asked}]
    rows = read(file(tmp_path, "in.jsonl", "\n".join(map(json.dumps, lines))), task(messages="talk"))
    assert rows["text"][:] == ["Who?", "Why?", "Why?"]
    assert [len(json.loads(turns)) for turns in rows["turns"]] == [1, 3, 3]


def test_the_columns_of_the_tasks_data_make_its_text(tmp_path: Path) -> None:
    path = file(tmp_path, "in.jsonl", '{"a": "x", "b": "y"}\n{"text": "x and y"}\n')
    assert read(path, task(text="{a} and {b}"))["text"][:] == ["x and y"] * 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.jsonl", '{"text": "a"}\nplain\n', "in.jsonl:2: broken JSON"),
        ("in.txt", '{"text": "a"}\nplain\n', "in.txt:2: broken JSON"),
        ("in.txt", "a\n\nb\n", "in.txt:2: the text is empty"),
        ("in.jsonl", '{"txt": "a"}\n', "in.jsonl:1: no column 'text', did you mean 'txt'"),
        ("in.jsonl", '{"text": 3}\n', "in.jsonl:1: 'text' is a number"),
        ("in.jsonl", "[[1]]\n", "in.jsonl, record 1: the record is a list"),
        ("in.jsonl", '{"messages": []}\n', "in.jsonl:1: 'messages' has no user's turn"),
        ("in.jsonl", '{"messages": "a"}\n', "in.jsonl:1: 'messages' is text, not a list"),
        ("in.jsonl", "\n", "in.jsonl: the file is empty"),
        ("in.csv", "text\n", "in.csv: holds no input"),
        ("in.jsonl", '{"text": "\\ud800"}\n', "in.jsonl:1: half of a surrogate"),
    ],
)
def test_faults_have_their_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(file(tmp_path, name, text), None)
