"""Prompts in the papers' format, and the promise that no shortening touches an instruction or `Answer:`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clkit.errors import DataError
from clkit.tasks.benchmarks import benchmark_tasks
from clkit.tasks.loading import load_task
from clkit.tasks.prompts import Limit, Prompt, build_prompt, fit
from clkit.tasks.sections import DataSection, PromptSection
from clkit.tasks.task import Task


def task(instruction: str | None = "Which one?", labels: tuple[str, ...] | None = ("yes", "no")) -> Task:
    rows = Dataset.from_dict({"text": ["x"], "answer": ["yes"]})
    return Task("name", "GROUP", instruction, labels, train=rows, test=rows)


@pytest.fixture(scope="module", params=["byte-level BPE", "unigram", "words"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Small tokenizers of the kinds that differ in where a token starts, each with special tokens around the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<unk>"]
    if request.param == "byte-level BPE":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    elif request.param == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>")
    else:
        backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=special)
    backend.train_from_iterator(["Which one? Option: yes, no Answer: the quick brown fox jumps over dogs"] * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", bos_token="<s>")


class SlowTokenizer:
    """As ByT5's: bytes as tokens and an end token; it cannot tell where they stand."""

    is_fast = False

    def __call__(self, texts: list[str], **_: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[*text.encode(), 1] for text in texts]}


def test_the_format_is_the_papers() -> None:
    prompt = build_prompt(task(), "A text.\n", PromptSection(task_name=True))
    assert str(prompt) == "Task:GROUP\nDataset:name\nWhich one?\nOption: yes, no \nA text.\n\nAnswer:"
    assert str(build_prompt(task(), "A text.", PromptSection())) == "Which one?\nOption: yes, no \nA text.\nAnswer:"
    assert str(build_prompt(task(None, None), "A text.", PromptSection())) == "A text.\nAnswer:"


def test_the_style_text_is_the_sentence_alone() -> None:
    assert str(build_prompt(task(), " A text.\n", PromptSection(style="text"))) == "A text."


TURNS = json.dumps([{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}])


def test_turns_before_the_sentence_have_lines_of_their_own() -> None:
    said = "system: Be brief.\nuser: Hi\n"
    assert str(build_prompt(task(), " And?", PromptSection(style="text"), TURNS)) == f"{said}And?"
    assert (
        str(build_prompt(task(), "And?", PromptSection(), TURNS))
        == f"Which one?\nOption: yes, no \n{said}And?\nAnswer:"
    )


def fit_all(prompts: list[Prompt], tokenizer: Any, most: int, *, framed: bool = False) -> list[str]:
    """Prompts of at most so many tokens, special ones included; a template has written them where they are framed."""
    limit = Limit("prompt.max_tokens", most, "prompt")

    def excess(indices: Sequence[int], texts: Sequence[str]) -> list[int]:
        assert [str(prompts[index])[:1] for index in indices] == [text[:1] for text in texts]
        return limit.excess([len(ids) for ids in tokenizer(texts, add_special_tokens=not framed)["input_ids"]])

    return [str(prompt) for prompt in fit(prompts, tokenizer, excess, limit)]


def test_a_framed_prompt_is_counted_without_what_the_tokenizer_adds(tokenizer: Any) -> None:
    prompt = Prompt("<s>", "fox " * 40, "</s>")
    whole = len(tokenizer(str(prompt), add_special_tokens=False)["input_ids"])
    assert fit_all([prompt], tokenizer, whole, framed=True) == [str(prompt)]
    assert fit_all([prompt], tokenizer, whole) != [str(prompt)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.text("fox dogs\n.é👩‍🚀", max_size=80)


@settings(deadline=None)
@given(text=TEXTS, spare=st.integers(0, 40))
def test_a_prompt_fits_and_keeps_its_ends(tokenizer: Any, text: str, spare: int) -> None:
    prompt = build_prompt(task(), text, PromptSection())
    empty = Prompt(prompt.before, "", prompt.after)
    room = len(tokenizer(str(empty))["input_ids"]) + spare
    fitted = fit_all([prompt], tokenizer, room)[0]
    assert len(tokenizer(fitted)["input_ids"]) <= room
    assert fitted.startswith(prompt.before)
    assert fitted.endswith(prompt.after)
    sentence = fitted[len(prompt.before) : len(fitted) - len(prompt.after)]
    assert prompt.text.startswith(sentence), "only the end is cut"
    if len(tokenizer(str(prompt))["input_ids"]) <= room:
        assert sentence == prompt.text


def test_no_room_is_left_unused(tokenizer: Any) -> None:
    prompt = Prompt("Which one?\n", "the quick brown fox jumps over dogs " * 20, "\nAnswer:")
    assert 56 <= len(tokenizer(fit_all([prompt], tokenizer, 60))["input_ids"][0]) <= 60


def test_many_prompts_fit_as_each_does(tokenizer: Any) -> None:
    prompts = [Prompt("Which one?\n", "fox " * count, "\nAnswer:") for count in range(1, 1100, 7)]
    assert fit_all(prompts, tokenizer, 40) == [fit_all([prompt], tokenizer, 40)[0] for prompt in prompts]
    assert fit_all([], tokenizer, 40) == []


def test_a_tokenizer_without_offsets_will_do() -> None:
    prompt = Prompt("Which?\n", "é" * 100, "\nAnswer:")
    assert fit_all([prompt], SlowTokenizer(), 40) == [f"Which?\n{'é' * 12}\nAnswer:"]


def test_an_instruction_that_does_not_fit_is_an_error(tokenizer: Any) -> None:
    prompt = build_prompt(task(instruction="Which one? " * 20), "the fox", PromptSection())
    with pytest.raises(
        DataError, match=r"^prompt\.max_tokens: 16 tokens do not hold .* set it to \d+ or more$"
    ) as error:
        fit_all([prompt], tokenizer, 16)
    enough = int(str(error.value).split()[-3])
    assert fit_all([prompt], tokenizer, enough)[0].endswith("Answer:")


def test_real_prompts_fit_a_real_tokenizer(cl_benchmark: Path, t5_tiny: Path) -> None:
    from transformers import AutoTokenizer

    t5 = AutoTokenizer.from_pretrained(t5_tiny)
    for recipe in benchmark_tasks("long_cl", 4, cl_benchmark):
        loaded = load_task(recipe, DataSection(train_per_task=40), seed=0)
        prompts = [build_prompt(loaded, text, PromptSection()) for text in loaded.train["text"]]
        for prompt, fitted in zip(prompts, fit_all(prompts, t5, 128), strict=True):
            assert len(t5(fitted)["input_ids"]) <= 128
            assert fitted.startswith(prompt.before)
            assert fitted.endswith("\nAnswer:")
