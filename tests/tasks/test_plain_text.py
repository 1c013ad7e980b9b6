"""Plain text for pretraining: every source gives its texts, whether there are labels beside them or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clkit.errors import DataError, RecipeError
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe
from clkit.tasks.loading import load_task
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.source import Rows
from clkit.tasks.task import Task


def load(source: dict[str, Any], **data: Any) -> Task:
    recipe = TaskRecipe.model_validate({"name": "domain", "source": source})
    return load_task(recipe, DataSection(**data), seed=0, plain_text=True)


def files(folder: Path, name: str, content: str | bytes) -> dict[str, Any]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return {"kind": "files", "train": str(folder / name), "test": str(folder / name)}


def hub(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"kind": "hub", "dataset": str(folder), "text": "text"}


def cl_folder(folder: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(records), encoding="utf-8")
    return {"kind": "folder", "folder": str(folder)}


@pytest.mark.parametrize(
    "source",
    [
        lambda folder: files(folder, "a.txt", "one\n\n two"),
        lambda folder: files(folder, "a.jsonl", '{"text": "one"}\n{"text": " two", "label": ["no label at all"]}'),
        lambda folder: files(folder, "a.csv", "text,n\none,1\n two,2\n"),
        lambda folder: hub(folder, [{"text": "one"}, {"text": " two"}]),
        lambda folder: hub(folder, [{"text": "one", "label": [1]}, {"text": " two", "label": None}]),
        lambda folder: hub(folder, [{"text": "one", "l": [1]}, {"text": " two", "l": None}]) | {"label": "l"},
        lambda folder: cl_folder(folder, [{"sentence": "one"}, {"sentence": " two", "label": ["-"]}]),
    ],
    ids=["txt", "jsonl", "csv", "hub", "hub with labels", "hub whose labels are named", "folder"],
)
def test_every_row_counts_and_no_label_is_read(source: Any, tmp_path: Path) -> None:
    task = load(source(tmp_path))
    assert (task.train["text"][:], task.train["answer"][:]) == (["one", " two"], [None, None])
    assert task.test["text"][:] == task.train["text"][:]
    assert (task.labels, task.dropped) == (None, {})


def test_the_sample_and_the_papers_tasks(cl_benchmark: Path) -> None:
    task = load({"kind": "sample", "task": "topics"})
    assert len(task.train) == 360
    assert set(task.train["answer"]) == {None}
    folder = cl_benchmark / "NLI" / "CB"
    records = json.loads((folder / "train.json").read_text("utf-8"))
    texts = load({"kind": "folder", "folder": str(folder)}).train["text"][:]
    assert texts == [record["sentence"] for record in records]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("one\ntwo", ["one\ntwo"]),
        ("one\ntwo\n\nthree\n", ["one\ntwo", "three"]),
        ("\n\none\n  \n\t\n\ntwo\n\n\n", ["one", "two"]),
        ("\ufeffone\r\n  two\r\n\r\nthree\r\n", ["one\n  two", "three"]),
        ("one\u2028\n\x0b\ntwo", ["one\u2028", "two"]),
    ],
)
def test_blank_lines_part_the_documents_of_a_text_file(tmp_path: Path, content: str, documents: list[str]) -> None:
    assert load(files(tmp_path, "a.TXT", content)).train["text"][:] == documents


def rows_of(source: dict[str, Any]) -> Rows:
    task = TaskRecipe.model_validate({"name": "domain", "source": source})
    return task.source.read(task.wanted(plain_text=True)).train


def test_a_document_is_named_by_its_first_line(tmp_path: Path) -> None:
    rows = rows_of(files(tmp_path, "a.txt", "\none\nmore\n\n\ntwo"))
    assert [rows.where(index) for index in (0, 1)] == [f"{tmp_path / 'a.txt'}:2", f"{tmp_path / 'a.txt'}:6"]


def test_an_empty_text_is_a_row_like_any_other(tmp_path: Path) -> None:
    """As in public data sets, in which nobody can correct it."""
    assert load(hub(tmp_path, [{"text": "one"}, {"text": ""}])).train["text"][:] == ["one", ""]
    assert load(files(tmp_path, "a.jsonl", '{"text": ""}')).train["text"][:] == [""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", ": the file is empty; it must hold at least one record"),
        ("a.txt", " \n\n", ": the file is empty"),
        ("a.txt", b"one\n\ncaf\xe9\n", ":3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a.md", "one", ": unknown kind of file '.md'; give a .jsonl, .json, .csv, .tsv, .parquet or .txt file"),
        ("a.csv", "text\n", ": no records; it must hold at least one"),
        ("a.jsonl", '{"txt": "one"}', ":1: no column 'text', did you mean 'txt'?"),
        ("a.jsonl", '{"text": "one"}\n{"text": 2}', ":2: 'text' is a number, not text"),
        ("a.jsonl", '{"text": "\\ud83d"}', ":1: half of a surrogate pair (\\ud83d)"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        load(files(tmp_path, name, content))
    assert str(error.value).startswith(f"{tmp_path / name}{message}")


def test_limits_and_validation_are_of_texts(tmp_path: Path) -> None:
    source = files(tmp_path, "a.txt", "\n\n".join(f"text {number}" for number in range(50)))
    whole = load(source, validation_share=0.2)
    assert whole.validation is not None
    assert (len(whole.train), len(whole.validation)) == (40, 10)
    assert not set(whole.train["text"]) & set(whole.validation["text"])
    small = load(source, validation_share=0.2, train_per_task=7, test_per_task=3)
    assert (len(small.train), len(small.test)) == (7, 3)
    assert small.validation is not None
    assert small.validation.to_dict() == whole.validation.to_dict()
    assert load(source, train_per_task=7).train.to_dict() == load(source, train_per_task=7).train.to_dict()


def recipe_of(folder: Path, source: str, **sections: str) -> Recipe:
    written = "".join(f"{key}: {value}\n" for key, value in sections.items())
    (folder / "my.yaml").write_text(
        f"name: x\nmodel: {{name: embedded:tiny-t5}}\ntasks:\n  - {{name: a, source: {source}}}\n{written}"
    )
    return Recipe.load(folder / "my.yaml")


@pytest.mark.parametrize(
    ("source", "sections", "problem"),
    [
        (
            "{kind: hub, dataset: d, text: t}",
            {},
            "4: tasks.a.source.label: plain text has no answers; use objective.kind: pretraining, or name the column "
            "that holds them",
        ),
        (
            "{kind: files, train: a.jsonl, test: a.txt}",
            {},
            "4: tasks.a.source.test: plain text has no answers; use objective.kind: pretraining, or name the column "
            "that holds them",
        ),
        ("{kind: hub, dataset: d}", {}, "4: tasks.a.source.text: missing; name the column that holds the input, or "
         "that of conversations: messages"),
        ("{kind: files, train: a.txt, test: b.txt, text: t}", {}, "4: tasks.a.source.text: a .txt file has no columns; "
         "remove it"),
        ("{kind: files, train: a.txt, test: b.txt, label: l}", {}, "4: tasks.a.source.label: a .txt file has no "
         "columns; remove it"),
        ("{kind: files, train: a.txt, test: b.txt, messages: m}", {}, "4: tasks.a.source.messages: a .txt file has no "
         "columns; remove it"),
        ("{kind: files, train: a.jsonl, test: b.jsonl, messages: m, label: l}", {}, "4: tasks.a.source.label: "
         "messages: m holds input and answer; remove one of the two"),
        ("{kind: hub, dataset: d, text: t, messages: m}", {}, "4: tasks.a.source.text: messages: m holds input and "
         "answer; remove one of the two"),
        ("{kind: hub, dataset: d, messages: m}", {"objective": "{kind: pretraining}"}, "4: tasks.a.source.messages: "
         "objective.kind: pretraining reads plain text; name its column with text"),
        ("{kind: sample, task: topics}", {"objective": "{kind: pretraining}", "data": "{train_per_label: 3}"},
         "6: data.train_per_label: objective.kind: pretraining reads no labels; use data.train_per_task"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused(
    tmp_path: Path, source: str, sections: dict[str, str], problem: str
) -> None:
    with pytest.raises(RecipeError) as error:
        recipe_of(tmp_path, source, **sections)
    assert error.value.problems == [f"{tmp_path / 'my.yaml'}:{problem}"]


def test_what_a_recipe_for_plain_text_may_leave_out(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "{kind: files, train: a.txt, test: b.txt}", objective="{kind: pretraining}")
    assert recipe.metric == "perplexity"
    folder = tmp_path / "domain"
    folder.mkdir()
    cl_folder(folder, [{"sentence": "one"}])
    assert not missing_inputs(
        recipe_of(tmp_path, f"{{kind: folder, folder: {folder}}}", objective="{kind: pretraining, block_tokens: 256}")
    )
    assert missing_inputs(recipe_of(tmp_path, f"{{kind: folder, folder: {folder}}}"))
