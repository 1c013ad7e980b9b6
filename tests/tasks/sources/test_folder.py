"""Folders in the CL_Benchmark layout: what is read, and how each broken file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clkit.errors import DataError
from clkit.tasks.source import Source, Wanted
from clkit.tasks.sources.folder import FolderSource

GOOD = {
    "train.json": '[{"label": "b", "sentence": "one"}, {"label": null, "sentence": "two"}]',
    "test.json": '[{"label": "a", "sentence": "three"}]',
    "labels.json": '["b", "a"]',
}


def read(folder: Path, files: dict[str, str | bytes], needs_labels: bool = True) -> Source:
    for name, content in {**GOOD, **files}.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return FolderSource(kind="folder", folder=str(folder)).read(Wanted("t", labels=needs_labels))


def test_a_folder_is_read(tmp_path: Path) -> None:
    source = read(tmp_path, {})
    assert source.labels == ("b", "a"), "the order of labels.json is kept"
    assert source.train.texts([1, 0]) == ["two", "one"]
    assert source.train.answers == ["b", None]
    assert source.test.where(0) == f"{tmp_path / 'test.json'}, record 1"


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    assert read(tmp_path, {"train.json": b"\xef\xbb\xbf" + GOOD["train.json"].encode()}).train.answers == ["b", None]


def test_labels_are_read_only_where_they_are_needed(tmp_path: Path) -> None:
    assert read(tmp_path, {"labels.json": "broken"}, needs_labels=False).labels is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.json", "", ": the file is empty"),
        ("train.json", "[]", ": no records"),
        ("labels.json", "[]", ": no records"),
        ("train.json", '[\n{"label": "a",\n}]', ":3: broken JSON"),
        ("train.json", b'[{"label": "a",\n "sentence": "caf\xe9"}]', ":2: byte 0xe9 is not UTF-8"),
        ("test.json", '["x"]', ", record 1: the record is text, not an object"),
        ("test.json", '[{"label": "a", "sentenc": "x"}]', ", record 1: no column 'sentence', did you mean 'sentenc'?"),
        ("test.json", '[{"label": "a", "sentence": " "}]', ", record 1: the text is empty"),
        ("test.json", '[{"label": "a", "sentence": 3}]', ", record 1: 'sentence' is a number, not text"),
        ("test.json", '[{"label": ["a"], "sentence": "x"}]', ", record 1: 'label' is a list"),
        ("test.json", '[{"label": "a", "sentence": "\\ud83d"}]', ", record 1: half of a surrogate pair (\\ud83d)"),
        ("labels.json", '["a", 1]', ", record 2: the label is a number; write a list of texts"),
        (
            "test.json",
            '[{"label": "a", "sentence": "x"}, {"label": "a", "sentence": null}]',
            ", record 2: 'sentence' is null, not",
        ),
        ("test.json", '[{"label": "a", "sentence": "x"}, null]', ", record 2: the record is null, not an object"),
        (
            "test.json",
            '[\n{"label": "a", "sentence": "x"},\n{"label": "a", "label": "b"}]',
            ", record 2: broken JSON (the key",
        ),
        ("labels.json", '["a", " "]', ", record 2: the label is empty; write a list of texts"),
        ("labels.json", '["a", "a"]', ", record 2: 'a' stands more than once"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, file: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, {file: content})
    assert str(error.value).startswith(f"{tmp_path / file}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", GOOD)
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    read(tmp_path, {})
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=f"{file}: no such file"):
        FolderSource(kind="folder", folder=str(tmp_path)).read(Wanted("t"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; it must hold train\.json"):
        FolderSource(kind="folder", folder=str(tmp_path / "none")).read(Wanted("t"))


def test_every_record_survives(tmp_path: Path) -> None:
    sentences = ["line\u2028separator", 'quote " and \\', "emoji 👩‍🚀", " spaces kept "]
    records = json.dumps([{"label": "a", "sentence": sentence} for sentence in sentences])
    assert read(tmp_path, {"train.json": records}).train.texts(range(4)) == sentences
