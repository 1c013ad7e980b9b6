"""The loss on all of the assistant's turns: by the template's own mask, and by one that is made by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clkit.engine.fit import _training_data
from clkit.engine.prepare import prepare
from clkit.errors import DataError
from clkit.models.chat import ChatTemplate
from clkit.models.family import IGNORED
from clkit.strategies.contract import Context
from clkit.tasks.prompts import Prompt
from tests.models.test_chat import TEMPLATES, byte_level, chatting
from tests.toy import toy_recipe

CONVERSATION = [
    {"role": "user", "content": "Which film?"},
    {"role": "assistant", "content": "the good film"},
    {"role": "user", "content": "was it positive"},
    {"role": "assistant", "content": "positive"},
    {"role": "user", "content": "And 7?"},
    {"role": "assistant", "content": "negative 7"},
]
#: What ends a turn is marked too, but for the line break behind it, and so is what a model is to think.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def learned(tokenizer: Any, conversation: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them are learned."""
    chat = ChatTemplate(tokenizer)
    *before, asked, answered = conversation
    prompt = Prompt("", asked["content"], "", json.dumps(before), "data.jsonl:3")
    (framed,), answers = chat.frame([prompt], [answered["content"]], "here", all_turns=True)
    ((head, tail),) = chat.ids([str(framed)], answers)
    (marks,) = chat.also_learned([str(framed)], answers, [framed.all_learned()])
    last = [False] * len(head) + [True] * len(tail)
    return head + tail, [own if mark is None else mark for own, mark in zip(last, marks, strict=True)]


@pytest.mark.parametrize("turns", [2, 4, 6])
def test_a_template_that_marks_its_turns_says_what_is_learned(turns: int) -> None:
    tokenizer = byte_level(SPECIAL, "<|im_end|>")
    tokenizer.chat_template = MARKED
    ids, mask = learned(tokenizer, CONVERSATION[:turns])
    own = tokenizer.apply_chat_template(
        CONVERSATION[:turns], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ids == own["input_ids"]
    assert list(map(int, mask)) == own["assistant_masks"]
    assert 0 < sum(mask) < len(mask)


def test_without_marks_it_is_each_turns_text_and_what_ends_it() -> None:
    tokenizer = chatting("chatml")
    ids, mask = learned(tokenizer, CONVERSATION)
    # By hand: from behind each header of the assistant's to behind the line break that follows the turn's end.
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    end = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"][0]
    expected = [False] * len(ids)
    for start in range(len(ids)):
        if ids[start : start + len(header)] == header:
            stop = ids.index(end, start) + 2
            expected[start + len(header) : stop] = [True] * (stop - start - len(header))
    assert mask == expected
    assert sum(expected) > 3 * 2


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_template_learns_each_answer_and_no_question(kind: str) -> None:
    tokenizer = chatting(kind)
    ids, mask = learned(tokenizer, CONVERSATION)
    runs, running = [], False
    for token, own in zip(ids, mask, strict=True):
        if own and not running:
            runs.append([])
        if own:
            runs[-1].append(token)
        running = own
    texts = [tokenizer.decode(run) for run in runs]
    answers = [turn["content"] for turn in CONVERSATION[1::2]]
    assert [answer in text for answer, text in zip(answers, texts, strict=True)] == [True] * 3
    assert not any(turn["content"] in text for turn in CONVERSATION[::2] for text in texts)
    # Each ends as the last one does, as far as the template has that in the middle of a conversation.
    assert all(run[-1] in runs[-1] for run in runs)
    # Of one turn it is what is learned of the last.
    single, mask = learned(tokenizer, CONVERSATION[:2])
    ((head, tail),) = ChatTemplate(tokenizer).ids(*_framed(tokenizer))
    assert (single, mask) == (head + tail, [False] * len(head) + [True] * len(tail))


def _framed(tokenizer: Any) -> tuple[list[str], list[str]]:
    prompts, answers = ChatTemplate(tokenizer).frame(
        [Prompt("", CONVERSATION[0]["content"], "")], ["the good film"], ""
    )
    return [str(prompt) for prompt in prompts], answers


def test_a_conversation_of_which_nothing_is_marked_is_named() -> None:
    tokenizer = byte_level(SPECIAL, "<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and messages[0].content != 'Hm' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    with pytest.raises(DataError, match=r"^data\.jsonl:3: objective\.loss_on: the chat template marks nothing"):
        learned(tokenizer, [{"role": "user", "content": "Hm"}, CONVERSATION[1]])


def test_a_run_learns_all_turns_with_replay_and_general_text_beside_them(toy_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(toy_llama, tmp_path / "model")
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    turns = [{"role": role, "content": f"w{n} w{n + 1}"} for n in (1, 5) for role in ("user", "assistant")]
    for name in ("a", "b"):
        lines = [json.dumps({"chat": turns if row % 2 else turns[2:]}) for row in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "text.txt").write_text("w7 w8 w9\n\nw10 w11")
    file = str(tmp_path / "a.jsonl")
    source = {"kind": "files", "messages": "chat", "train": file, "test": file}
    replay = {"name": "replay", "general": {"source": {"kind": "files", "train": str(tmp_path / "text.txt")}}}
    changes: dict[str, Any] = {
        "tasks": [{"name": "t", "source": source, "answers": "free"}],
        "prompt": {"style": "text", "chat_template": True},
        "objective": {"loss_on": "all_turns"},
        "strategies": [replay],
    }
    with pytest.raises(ValueError, match=r"objective\.loss_on: all_turns .* set prompt\.chat_template: true"):
        toy_recipe(tmp_path, model, **changes | {"prompt": {"chat_template": False}})
    prepared = prepare(toy_recipe(tmp_path, model, **changes))
    parts: Any = {"family": prepared.family, "task": prepared.tasks[0]}
    rows = _training_data(prepared, prepared.stages[0], Context(task_index=0, seed=1, **parts)).to_list()
    assert len(rows) == 9
    tokens = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    # Two words and the end, of one turn or two; the text has five words and the token that begins it.
    assert tokens[:8] == [3, 6] * 4
    assert rows[8]["labels"] == rows[8]["input_ids"]
    for row in rows[1:8:2]:
        own = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
        ids = prepared.family.tokenizer("w1 w2 </s> w5 w6 </s>", add_special_tokens=False)["input_ids"]
        assert own == ids
    # A test asks for the last answer alone.
    tested = prepared.family.encode(*(prepared.examples(prepared.stages[0])[name][:2] for name in ("prompt", "answer")))
    assert [sum(label != IGNORED for label in labels) for labels in tested["labels"]] == [3, 3]
