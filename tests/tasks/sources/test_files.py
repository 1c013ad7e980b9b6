"""JSONL and CSV files of the user's own: what is read, and how each broken file is named."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clkit.errors import DataError
from clkit.tasks.source import Rows, Wanted
from clkit.tasks.sources.files import FilesSource


def read(folder: Path, suffix: str, content: str | bytes, **options: Any) -> Rows:
    path = folder / f"data{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FilesSource(kind="files", train=str(path), test=str(path), **options).read(Wanted("t")).train


def parquet(columns: dict[str, list[Any]]) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue()


def test_jsonl_is_read(tmp_path: Path) -> None:
    lines = '{"text": "a\u2028b", "label": true}\n\n{"text": "c", "label": 3.0}\r\n{"text": "d", "label": null}'
    rows = read(tmp_path, ".jsonl", lines)
    assert rows.texts([0, 1, 2]) == ["a\u2028b", "c", "d"]
    assert rows.answers == ["True", "3", None]
    assert rows.where(1).endswith("data.jsonl:3"), "blank lines count"


def test_csv_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path, ".csv", b'\xef\xbb\xbftext,label\r\n"a, ""b""\r\nc",x\r\n\r\nd,\r\n')
    assert rows.texts([0, 1]) == ['a, "b"\r\nc', "d"]
    assert rows.answers == ["x", None]
    assert [rows.where(index).rsplit(":")[-1] for index in range(2)] == ["2", "5"]


def test_a_long_field_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, ".csv", f"text,label\n{'x' * 300_000},y\n").texts([0])[0]) == 300_000


def test_a_template_joins_columns(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        ".jsonl",
        '{"title": "T {body}", "body": "B", "n": 2, "y": "x"}\n{"title": null, "body": "B", "n": 2.5, "y": "x"}',
        text="Title: {title}\nText: {body} {n}",
        label="y",
    )
    assert rows.texts([0, 1]) == ["Title: T {body}\nText: B 2", "Title: \nText: B 2.5"]


CSV = "text;label\na,b;0\nc;1\nd;-\n"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", CSV.encode()),
        (".csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        (".tsv", CSV.encode()),
        (
            ".JSONL.gz",
            gzip.compress(
                b'{"text": "a,b", "label": 0}\n{"text": "c", "label": 1}\n{"text": "d", "label": "-"}', mtime=0
            ),
        ),
        (".json", b'[{"text": "a,b", "label": 0}, {"text": "c", "label": 1}, {"text": "d", "label": "-"}]'),
        (".parquet", parquet({"text": ["a,b", "c", "d"], "label": ["0", "1", "-"]})),
    ],
)
def test_kinds_of_files_hold_the_same(tmp_path: Path, suffix: str, content: bytes) -> None:
    delimiter = {"delimiter": ";"} if "sv" in suffix else {}
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    section = FilesSource(
        kind="files", train=str(path), test=str(path), label_names=["no", "yes"], missing=["-"], **delimiter
    )
    source = section.read(Wanted("t"))
    assert source.labels == ("no", "yes")
    assert source.train.texts([0, 1, 2]) == ["a,b", "c", "d"]
    assert source.train.answers == ["no", "yes", None]
    assert section.lacks(Wanted("t")) == []


def test_parquet_has_conversations_and_numbers_and_places(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = read(tmp_path, ".parquet", parquet({"chat": [turns, turns]}), messages="chat")
    assert (rows.texts([1]), rows.answers) == (["hi"], ["ho", "ho"])
    rows = read(tmp_path, ".parquet", parquet({"text": ["a", "b"], "label": [3.0, None]}))
    assert rows.answers == ["3", None]
    assert read(tmp_path, ".parquet", parquet({"text": ["a"], "label": [Decimal("1.50")]})).answers == ["1.50"]
    assert rows.where(1) == f"{tmp_path / 'data.parquet'}, row 2"


def test_settings_without_effect_are_refused() -> None:
    for suffix, settings, message in [
        (".jsonl", {"delimiter": ";"}, "delimiter: it is for .csv and .tsv files"),
        (".csv", {"delimiter": '"'}, "String should match pattern"),
        (".jsonl", {"messages": "chat", "label_names": ["a"]}, "label_names: messages: chat holds"),
        (".txt.gz", {"label_names": ["a"]}, "label_names: a .txt file has no columns"),
    ]:
        with pytest.raises(ValidationError, match=message):
            FilesSource(kind="files", train=f"/a{suffix}", test=f"/b{suffix}", **settings)


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.text("ab", min_size=1)),
        min_size=1,
    )
)
def test_csv_keeps_what_was_written(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    pairs = [(f"{text}!", label) for text, label in pairs]
    written = io.StringIO()
    csv.writer(written).writerows([("text", "label"), *pairs])
    rows = read(tmp_path_factory.mktemp("csv"), ".csv", written.getvalue())
    assert list(zip(rows.texts(range(len(pairs))), rows.answers, strict=True)) == pairs


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".jsonl", "", ": the file is empty"),
        (".jsonl", '{"text": "a", "label": "x"}\n{"text": "b"', ":2: broken JSON"),
        (".jsonl", '"a"', ":1: the record is text, not an object"),
        (".jsonl", '{"txt": "a", "label": "x"}', ":1: no column 'text', did you mean 'txt'? (columns: txt, label)"),
        (".json", '{"data": [{"text": "a", "label": "x"}]}', ":1: the records stand in 'data'; write that list alone"),
        (
            ".jsonl",
            '{"chat": [{"role": "user", "content": "a"}]}',
            ":1: 'chat' seems to hold a conversation; set source.",
        ),
        (".jsonl", '{"tokens": ["a", "b"]}', ":1: no column 'text' (columns: tokens)"),
        (".jsonl", '{"text": {}, "label": "x"}', ":1: 'text' is an object, not text"),
        (".jsonl", b'{"text": "a"}\n\xff', ":2: byte 0xff is not UTF-8; save the file as UTF-8"),
        (".csv", "text,label\n", ": no records"),
        (
            ".csv",
            "text;label\na;b\n",
            ":1: no column 'text': the header has ';' as delimiter ('text;label'); write the file with commas, or set "
            'source.delimiter: ";" (kind: files)',
        ),
        (".csv", "sep=;\ntext;label\na;x\n", ":1: 'sep=;' is a line for Excel and no header; remove it (source."),
        (".csv", "text,label\na,x\na, b,x\n", ":3: the header has 2 fields, this record 3"),
        (".csv", "text,label\na\n", ":2: the header has 2 fields, this record 1"),
        (".csv", "text,text\na,x\n", ":1: a column's name stands twice"),
        (".csv", 'text,label\n"a,x\n', ":2: broken CSV"),
        (".csv", "text,label\n ,x\n", ":2: the text is empty"),
        (
            ".csv.gz",
            gzip.compress(b"text,label\n" + b"a,x\n" * 99, mtime=0)[:-9],
            ": is damaged or not compressed by gzip",
        ),
        (".csv.gz", gzip.compress(b"text,label\n\xff,x", mtime=0), ":2: byte 0xff is not UTF-8"),
        (".parquet", "text", ": cannot be read as Parquet"),
        (
            ".parquet",
            parquet({"text": ["a"], "label": [date(2026, 1, 2)]}),
            ", row 1: 'label' is a value of the kind date",
        ),
        (
            ".parquet",
            parquet({"text": [b"a"], "label": ["b"]}),
            ", row 1: 'text' is a value of the kind bytes, not text",
        ),
        (".parquet", parquet({"txt": ["a"], "label": ["b"]}), ", row 1: no column 'text', did you mean 'txt'?"),
        (".xlsx", "text\tlabel\n", ": unknown kind of file '.xlsx'; give a .jsonl, .json, .csv, .tsv or .parquet file"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, suffix: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, suffix, content)
    assert str(error.value).startswith(f"{tmp_path / 'data'}{suffix}{message}")


def test_white_space_in_a_header_is_no_other_delimiter(tmp_path: Path) -> None:
    message = (
        r":1: no column 'label', did you mean 'label ', which differs in white space\? \(columns: a, text, label \)"
    )
    for mark in ",;\\]^-":
        with pytest.raises(DataError, match=message):
            read(tmp_path, ".csv", f"a{mark}text{mark}label \n1{mark}b{mark}x\n", delimiter=mark)
    with pytest.raises(DataError, match=r"the header has ';' as delimiter \('a;text;label '\)"):
        read(tmp_path, ".csv", "a;text;label \n1;b;x\n", delimiter=",")


@pytest.mark.parametrize("names", [["no", "yes"], *({off: "no", on: "yes"} for off, on in ("01", ("false", "true")))])
def test_true_and_false_are_named_as_they_are_written_or_by_number(tmp_path: Path, names: Any) -> None:
    for suffix, content in ((".parquet", parquet({"text": ["a", "b"], "label": [True, False]})),):
        assert read(tmp_path, suffix, content, label_names=names).answers == ["yes", "no"]
    rows = '{"text": "a", "label": true}\n{"text": "b", "label": false}\n'
    assert read(tmp_path, ".jsonl", rows, label_names=names).answers == ["yes", "no"]
    python = {"False": "no", "True": "yes"}
    assert read(tmp_path, ".jsonl", rows, label_names=python).answers == ["yes", "no"]
    assert read(tmp_path, ".csv", "text,label\na,True\nb,False\n", label_names=python).answers == ["yes", "no"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    whole = "data: is a folder; give one file of it, or read it by source.kind: folder"
    named = {"none.jsonl": "no such file", "folder.csv": "is not a file but a folder", "data": whole}
    for name, message in named.items():
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        path = str(tmp_path / name)
        with pytest.raises(DataError, match=message):
            FilesSource(kind="files", train=path, test=path).read(Wanted("t"))
