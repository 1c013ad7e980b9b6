"""Limits on prompts, answers and conversations, counted in tokens; no test is made easier by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clkit.engine.prepare import Prepared, prepare
from clkit.errors import DataError
from clkit.models.family import IGNORED
from clkit.recipe.recipe import Recipe
from tests.toy import toy_recipe

#: Words of each prompt and answer; with the tokens that begin and end a sequence they are tokens.
TRAIN, TEST = [(4, 2), (30, 2), (4, 20), (12, 12)], [(4, 2), (30, 20)]


def recipe(folder: Path, model: Path, **prompt: Any) -> Recipe:
    for split, lengths in (("train", TRAIN), ("test", TEST)):
        rows = [
            {
                "text": " ".join(f"w{n}" for n in range(text)),
                "label": " ".join(f"w{20 + n % 10}" for n in range(answer)),
            }
            for text, answer in lengths
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    source = {"kind": "files", **{split: str(folder / f"{split}.jsonl") for split in ("train", "test")}}
    tasks = [{"name": "t", "source": source, "answers": "free"}]
    return toy_recipe(folder, model, tasks=tasks, prompt={"style": "text", "max_tokens": 64, **prompt})


def learned(prepared: Prepared) -> list[tuple[int, int]]:
    """Tokens of each training example: of all that is read and written, and of its answer."""
    examples = prepared.examples(prepared.stages[0])
    columns = prepared.family.encode(examples["prompt"][:], examples["answer"][:], examples["task"][:])
    answers = [sum(label != IGNORED for label in labels) for labels in columns["labels"]]
    split = prepared.family.model.config.is_encoder_decoder
    return [(len(ids) + split * answer, answer) for ids, answer in zip(columns["input_ids"], answers, strict=True)]


LIMITS = {"max_tokens": 20, "max_answer_tokens": 10, "max_conversation_tokens": 24}


@pytest.mark.parametrize("model", ["toy_llama", "toy_t5"])
def test_what_is_learned_is_shortened_to_the_limits(tmp_path: Path, model: str, request: pytest.FixtureRequest) -> None:
    prepared = prepare(recipe(tmp_path, request.getfixturevalue(model), **LIMITS))
    # Each prompt has one token more than its words, and so has each answer. What fits is untouched.
    assert learned(prepared) == [(8, 3), (20 + 3, 3), (5 + 10, 10), (13 + 10, 10)]
    told = [remark for remark in prepared.plan().remarks if "longer than" in remark]
    assert told[:2] == [
        "task 't': 1 of 4 train examples (25.0%) have prompts longer than prompt.max_tokens (20) or "
        "prompt.max_conversation_tokens (24), cut at the sentence's end",
        "task 't': 2 of 4 train examples (50.0%) have answers longer than prompt.max_answer_tokens (10), cut at the "
        "end",
    ]
    # Of a test the answers are as they were, and so is what is counted.
    task = prepared.tasks[0]
    assert [len(answer.split()) for answer in task.test["answer"]] == [2, 20]
    # The whole alone: what the answer leaves of it is the prompt's.
    alone = prepare(recipe(tmp_path, request.getfixturevalue(model), max_conversation_tokens=24))
    assert learned(alone) == [(8, 3), (24, 3), (24, 21), (24, 13)]


def test_dropped_examples_are_counted_and_no_test_loses_any(tmp_path: Path, toy_llama: Path) -> None:
    prepared = prepare(recipe(tmp_path, toy_llama, **LIMITS, on_too_long="drop"))
    assert learned(prepared) == [(8, 3)]
    plan = prepared.plan()
    assert (plan.examples, plan.dropped) == ([(1, 2)], [{"too long train": 3}])
    assert any(
        "1 of 2 test examples (50.0%) have prompts longer than prompt.max_tokens (20)" in one for one in plan.remarks
    )
    assert "t: rows left out, without a gold label unless said otherwise: 3 too long train" in plan.remarks
    with pytest.raises(DataError, match=r"^task 't': all 4 training examples are longer than prompt\.max_answer"):
        prepare(recipe(tmp_path, toy_llama, max_answer_tokens=2, on_too_long="drop"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_tokens": 20},
            "train.jsonl:2: prompt.max_tokens: the prompt takes 31 tokens, more than 20; shorten it, ",
        ),
        (
            {"max_answer_tokens": 10},
            "train.jsonl:3: prompt.max_answer_tokens: the answer takes 21 tokens, more than 10;",
        ),
        (
            {"max_conversation_tokens": 24},
            "train.jsonl:2: prompt.max_conversation_tokens: the conversation takes 34 tokens, more than 24; shorten",
        ),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, toy_llama: Path, limits: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as error:
        prepare(recipe(tmp_path, toy_llama, **limits, on_too_long="error"))
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    fine = {"max_tokens": 31, "max_answer_tokens": 21, "max_conversation_tokens": 34, "on_too_long": "error"}
    prepare(recipe(tmp_path, toy_llama, **fine))


@pytest.mark.parametrize("chat", [True, False])
def test_a_conversation_loses_its_oldest_turns_first(tmp_path: Path, toy_llama: Path, chat: bool) -> None:
    turns = [
        {"role": "system", "content": "w0"},
        *(
            {"role": role, "content": f"w{number} w{number} w{number}"}
            for number in (1, 2)
            for role in ("user", "assistant")
        ),
        {"role": "user", "content": "w8 w9"},
        {"role": "assistant", "content": "w3"},
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"chat": turns}) + "\n")
    model = shutil.copytree(toy_llama, tmp_path / "model")
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    source = {"kind": "files", "messages": "chat", **{one: str(tmp_path / f"{one}.jsonl") for one in ("train", "test")}}

    def prompt(most: int) -> str:
        section = {"style": "text", "chat_template": chat, "max_tokens": most}
        tasks = [{"name": "t", "source": source, "answers": "free"}]
        prepared = prepare(toy_recipe(tmp_path, model, tasks=tasks, prompt=section))
        return " ".join(word for word in prepared.examples(prepared.stages[0])["prompt"][0].split() if word[0] == "w")

    everything = "w0 w1 w1 w1 w1 w1 w1 w2 w2 w2 w2 w2 w2 w8 w9"
    assert prompt(64) == everything
    assert prompt(24 if chat else 18) == "w0 w2 w2 w2 w2 w2 w2 w8 w9"
    assert prompt(16) in ("w0 w2 w2 w2 w2 w2 w2 w8 w9", "w0 w8 w9")


def test_a_limit_without_effect_is_refused(tmp_path: Path, toy_llama: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt\.max_answer_tokens: has no effect, since all answers are labels"):
        toy_recipe(tmp_path, toy_llama, prompt={"max_answer_tokens": 4})
