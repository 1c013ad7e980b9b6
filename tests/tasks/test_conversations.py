"""Conversations as instruction data: which turn is the answer, what stands before it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clkit.errors import DataError
from clkit.tasks.conversations import read_conversation
from clkit.tasks.loading import load_task
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.task import Task

SYSTEM = {"role": "system", "content": "Be brief."}


def user(content: str | None) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def task_of(folder: Path, kind: str, conversations: list[Any], **task: Any) -> Task:
    lines = "\n".join(json.dumps({"chat": turns, "n": 1}) for turns in conversations)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    files = {"kind": "files", "train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
    source = (files if kind == "files" else {"kind": "hub", "dataset": str(folder)}) | {"messages": "chat"}
    recipe = TaskRecipe.model_validate({"name": "chat", "source": source, "answers": "free", **task})
    return load_task(recipe, DataSection(), seed=0)


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_the_last_assistants_turn_is_the_answer(tmp_path: Path, kind: str) -> None:
    conversations = [
        [user("1 + 1?"), assistant("2")],
        [SYSTEM, user(" 1 + 1?\n"), assistant("2")],
        [SYSTEM, user("Hi"), assistant("Hello"), user("And?"), assistant("Fine"), user("Bye")],
        [user("Nobody answers")],
        [assistant("I begin")],
        [user("x"), assistant("")],
        [],
    ]
    task = task_of(tmp_path, kind, conversations)
    assert task.labels is None
    assert task.train["text"][:] == ["1 + 1?", " 1 + 1?\n", "And?"]
    assert task.train["answer"][:] == ["2", "2", "Fine"]
    assert [json.loads(turns) for turns in task.train["turns"]] == [
        [],
        [SYSTEM],
        [SYSTEM, user("Hi"), assistant("Hello")],
    ]
    assert task.dropped == {"train": 4, "test": 4}


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_the_names_of_other_data_sets_mean_the_same(tmp_path: Path, kind: str) -> None:
    turns = [("system", "Be brief."), ("human", "1 + 1?"), ("gpt", "2")]
    other = [{"from": role, "value": content} for role, content in turns]
    task = task_of(tmp_path, kind, [other])
    assert task.train["text"][:] == ["1 + 1?"]
    assert task.train["answer"][:] == ["2"]
    assert task.train["turns"][:] == [json.dumps([SYSTEM])]


def test_answers_may_be_labels(tmp_path: Path) -> None:
    task = task_of(tmp_path, "files", [[user("x"), assistant("no")], [user("y"), assistant("yes")]], answers="labels")
    assert task.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("turns", "answer"),
    [
        ([user(None), assistant("an answer to nothing")], None),
        ([user(" "), assistant("an answer to nothing")], None),
        ([user("x"), assistant(None)], ""),
        ([user("x"), assistant("first"), assistant("second")], None),
        ([user("x"), SYSTEM, assistant("y")], None),
    ],
)
def test_what_is_no_example(turns: list[Any], answer: str | None) -> None:
    assert read_conversation(turns, "here", "chat").answer == answer


def test_letters_stay_readable() -> None:
    turns = read_conversation([user("é"), assistant("ü"), user("x"), assistant("y")], "here", "chat").turns
    assert "é" in turns


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "here: 'chat' is text, not a list of turns; correct this record"),
        (None, "here: 'chat' is null, not a list of turns; correct this record"),
        (["hello"], "here: 'chat', turn 1 is text, not an object with role and content; correct this record"),
        (
            [user("x"), {"role": "tool", "content": "y"}],
            "here: 'chat', turn 2: the role 'tool' is unknown (roles: system, user, human, assistant, gpt); "
            "correct this record",
        ),
        ([{"role": ["user"], "content": "x"}], "here: 'chat', turn 1: the role ['user'] is unknown"),
        ([{"content": "x"}], "here: 'chat', turn 1: the role None is unknown"),
        (
            [user("x"), {"role": "assistant", "content": [{"type": "text"}]}],
            "here: 'chat', turn 2: its content is a list, not text; correct or remove this record",
        ),
        ([user("\ud83d")], "here: 'chat', turn 1: half of a surrogate pair"),
    ],
)
def test_what_is_malformed_is_named(value: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_conversation(value, "here", "chat")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "place"),
    [("files", "{folder}/train.jsonl:2: 'chat', turn 1"), ("hub", "{folder}/train.jsonl:2: 'chat', turn 1")],
)
def test_the_place_is_named(tmp_path: Path, kind: str, place: str) -> None:
    wrong = {"role": "tool", "content": "x"}
    with pytest.raises(DataError) as error:
        task_of(tmp_path, kind, [[user("x"), assistant("y")], [wrong]])
    assert str(error.value).startswith(place.format(folder=tmp_path))


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_prompt_and_response_need_no_conversations(tmp_path: Path, kind: str) -> None:
    lines = "\n".join(json.dumps({"instruction": f"say {word}", "response": word}) for word in ("yes", "-1"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    files = {"kind": "files", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    source = files if kind == "files" else {"kind": "hub", "dataset": str(tmp_path)}
    source |= {"text": "instruction", "label": "response"}
    recipe = TaskRecipe.model_validate({"name": "own", "source": source, "answers": "free"})
    task = load_task(recipe, DataSection(), seed=0)
    assert task.train["text"][:] == ["say yes", "say -1"]
    assert task.train["answer"][:] == ["yes", "-1"]
