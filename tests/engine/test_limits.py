"""What does not fit a model: refused before anything is trained, with a way out that does work, or counted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from clkit.engine.prepare import Prepared, prepare
from clkit.errors import DataError, ModelError
from clkit.events import Listener
from clkit.recipe.recipe import Recipe
from clkit.testing.examiner import Examiner
from tests.toy import toy_recipe
from tests.toy_models import write_toy

SHORT = {"bos_token_id": 40, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": 41}
#: Numbers of words in the inputs and answers of a split; in the toys' tokenizers each word is a token.
Words = Sequence[tuple[int, int]]


@pytest.fixture
def gpt2(flat_llama: Path, tmp_path: Path) -> Path:
    """32 positions; a prompt begins with one token more than its words."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=32, **SHORT)).save_pretrained(
        tmp_path / "gpt2"
    )
    AutoTokenizer.from_pretrained(flat_llama).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def bart(flat_t5: Path, tmp_path: Path) -> Path:
    """32 positions on both sides; prompt and answer end with one token more than their words."""
    sizes = {f"{side}_{key}": 1 for side in ("encoder", "decoder") for key in ("layers", "attention_heads", "ffn_dim")}
    config = BartConfig(d_model=8, max_position_embeddings=32, decoder_start_token_id=1, **sizes, **SHORT)
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    AutoTokenizer.from_pretrained(flat_t5).save_pretrained(tmp_path / "bart")
    return tmp_path / "bart"


def recipe(folder: Path, model: Path, train: Words, test: Words, **changes: Any) -> Recipe:
    """One task with free answers, whose prompts are the inputs alone."""
    for split, lengths in (("train", train), ("test", test)):
        rows = [{"text": " ".join(["w1"] * text), "label": " ".join(["w2"] * answer)} for text, answer in lengths]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    source = {"kind": "files", **{split: str(folder / f"{split}.jsonl") for split in ("train", "test")}}
    settings = {
        "tasks": [{"name": "t", "source": source, "answers": "free"}],
        "prompt": {"style": "text", "max_tokens": 64},
        "evaluation": {"max_new_tokens": 4},
        "training": {"batch_size": 2, "epochs": 1.0},
    }
    return toy_recipe(folder, model, **{**settings, **changes})


FINE = [(5, 2)] * 2


@pytest.mark.parametrize(
    ("train", "test", "new", "message"),
    [
        # A prompt of 1 + 28 tokens with 3 and an end: 33.
        ([(28, 3), (2, 3)], FINE, 4, "a train prompt of 29 tokens with an answer of 4 tokens takes 33 positions"),
        ([(2, 30)], FINE, 4, "a train prompt of 3 tokens with an answer of 31 tokens takes 34 positions"),
        ([(40, 2)], FINE, 4, "a train prompt of 41 tokens with an answer of 3 tokens takes 44 positions"),
        # The last token of an answer is written and not read again.
        (FINE, [(29, 2)], 4, "a test prompt of 30 tokens with evaluation.max_new_tokens of 4 takes 33 positions"),
        (FINE, FINE, 40, "a test prompt of 6 tokens with evaluation.max_new_tokens of 40 takes 45 positions"),
    ],
)
def test_a_sequence_beyond_the_positions_is_refused_and_what_is_advised_fits(
    gpt2: Path, tmp_path: Path, train: Words, test: Words, new: int, message: str
) -> None:
    def one(**changes: Any) -> Recipe:
        return recipe(tmp_path, gpt2, train, test, **{"evaluation": {"max_new_tokens": new}, **changes})

    with pytest.raises(ModelError, match=f"^task 't': {re.escape(message)}, and the model has 32; ") as error:
        prepare(one())
    for key, value in re.findall(r"set (\w+\.\w+) to (\d+)", str(error.value)):
        section, _, name = key.partition(".")
        style = {"style": "text"} if section == "prompt" else {}
        used_up(prepare(one(**{section: {**style, name: int(value)}})))
        with pytest.raises(ModelError, match="positions"):
            prepare(one(**{section: {**style, name: int(value) + 1}}))


def used_up(prepared: Prepared) -> None:
    """All that is trained and tested goes through the model, whose answers never end."""
    loaded, task = prepared.family, prepared.tasks[0]
    examples = prepared.examples(prepared.stages[0])
    for row in loaded.encode(examples["prompt"][:], examples["answer"][:])["input_ids"]:
        loaded.model(torch.tensor([row]))
    loaded.tokenizer.eos_token_id = 7  # a word that the model does not happen to write
    Examiner([task], prepared.recipe).test(loaded, task.name)


def test_what_just_fits_is_not_refused(gpt2: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe(tmp_path, gpt2, [(27, 3), (2, 28)], [(28, 2)]))
    assert prepared.plan().remarks[:-1] == []
    used_up(prepared)


def test_the_likelihood_of_an_answer_needs_the_positions_of_the_whole(gpt2: Path, tmp_path: Path) -> None:
    def tested(answer: int) -> Prepared:
        return prepare(recipe(tmp_path, gpt2, FINE, [(28, answer)], evaluation={"metric": "loss"}))

    tested(2)
    with pytest.raises(ModelError, match="a test prompt of 29 tokens with an answer of 4 tokens takes 33 positions"):
        tested(3)


@pytest.mark.parametrize(
    ("train", "new", "message"),
    [
        (
            [(32, 2)],
            4,
            "a train prompt of 33 tokens takes 33 positions, and the model has 32; set prompt.max_tokens to 32",
        ),
        (
            [(3, 32)],
            4,
            "an answer of 33 tokens is more than the decoder's 32 positions; shorten the answer or leave it out",
        ),
        (
            FINE,
            33,
            "evaluation.max_new_tokens of 33 is more than the decoder's 32 positions; set evaluation.max_new_tokens",
        ),
    ],
)
def test_an_encoder_decoder_has_two_tables(bart: Path, tmp_path: Path, train: Words, new: int, message: str) -> None:
    with pytest.raises(ModelError, match=f"^task 't': {re.escape(message)}"):
        prepare(recipe(tmp_path, bart, train, FINE, evaluation={"max_new_tokens": new}))
    prepare(recipe(tmp_path, bart, [(31, 31)], [(31, 2)], evaluation={"max_new_tokens": 32}))


def test_a_classifier_reads_no_more_than_its_positions(toy_roberta: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"objective": {"kind": "classification"}, "prompt": {"style": "text", "max_tokens": 600}}
    whole = toy_recipe(tmp_path, toy_roberta, **changes)
    prepare(whole)
    with (tmp_path / "first-test.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": " ".join(["w1"] * 512), "label": "w1"}) + "\n")
    with pytest.raises(
        ModelError, match=r"^task 'first': a test prompt of 514 tokens takes 514 positions, .* has 513; set"
    ):
        prepare(whole)


@pytest.mark.parametrize(("model", "most"), [("gpt2", 32), ("toy_roberta", 513)])
def test_blocks_of_text_beyond_the_positions_are_refused(
    model: str, most: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def blocks(tokens: int) -> Recipe:
        objective = {"kind": "pretraining", "block_tokens": tokens}
        changes: dict[str, Any] = {"objective": objective, "prompt": None, "evaluation": {}}
        return recipe(tmp_path, request.getfixturevalue(model), [(700, 1)], [(700, 1)], **changes)

    prepare(blocks(most))
    with pytest.raises(ModelError, match=rf"^objective.block_tokens: .* {most} tokens, not for 600; set it to {most}$"):
        prepare(blocks(600))


def test_general_ability_is_measured_within_the_positions(gpt2: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe(tmp_path, gpt2, FINE, FINE, general={"texts": "builtin"}))
    assert prepared.general is not None
    assert prepared.general.measure(prepared.family, Listener())["held_out_loss"] is not None


def test_more_tokens_than_rotary_positions_were_trained_for_are_remarked_on(flat_llama: Path, tmp_path: Path) -> None:
    long = recipe(tmp_path, flat_llama, [(600, 2), (3, 2)], FINE, prompt={"style": "text", "max_tokens": 700})
    assert prepare(long).plan().remarks[0] == (
        "task 't': 1 of 2 train examples take up to 604 tokens, more than the 512 that the model was trained with"
    )


def test_prompts_that_are_cut_and_answers_too_long_for_a_test_are_counted(flat_t5: Path, tmp_path: Path) -> None:
    long = recipe(tmp_path, flat_t5, [(80, 2), (3, 2), (3, 9)], [(90, 2), (3, 9), (3, 5), (3, 4)])
    cut = "have prompts longer than prompt.max_tokens (64), cut at the sentence's end"
    never = "have answers longer than evaluation.max_new_tokens (4), which so cannot be right; the longest takes 10"
    assert prepare(long).plan().remarks[:-1] == [
        f"task 't': 1 of 3 train examples (33.3%) {cut}",
        "task 't': 3 of 4 test examples (75.0%) stand in the training examples too",
        f"task 't': 1 of 4 test examples (25.0%) {cut}",
        f"task 't': 3 of 4 test examples (75.0%) {never}",
    ]


@pytest.mark.parametrize("evaluation", [{"max_new_tokens": 3}, {"metric": "loss"}])
def test_answers_that_no_test_could_find_right_are_refused(
    flat_t5: Path, tmp_path: Path, evaluation: dict[str, Any]
) -> None:
    hopeless = recipe(tmp_path, flat_t5, FINE, [(3, 5), (3, 7)], evaluation=evaluation)
    if "metric" in evaluation:  # no answer is written
        prepare(hopeless)
        return
    with pytest.raises(DataError, match=r"^evaluation.max_new_tokens: 3 .* none .* take 6 to 8; set it to 8$"):
        prepare(hopeless)


def test_text_that_spells_special_tokens_is_counted(flat_t5: Path, tmp_path: Path) -> None:
    spelling = recipe(tmp_path, flat_t5, FINE, FINE)
    rows = [{"text": text, "label": "w2"} for text in ("w1 </s> w3", "w1", "<pad>")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert prepare(spelling).plan().remarks[0].startswith("task 't': 2 of 3 train examples (66.7%) have text that ")


def test_answers_of_which_none_can_be_spelt_are_refused(flat_t5: Path, tmp_path: Path) -> None:
    spelling = recipe(tmp_path, flat_t5, FINE, FINE)
    rows: list[dict[str, str]] = [{"text": "w1", "label": "体育"}] * 2
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(
        DataError, match=r"^task 't': the model cannot write any of the test answers: of '体育' it reads"
    ):
        prepare(spelling)


CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} </s>{% endfor %}{% if add_generation_prompt %}w8{% endif %}"
)


def test_the_plan_tells_of_a_generation_prompt_that_is_not_used(tmp_path: Path) -> None:
    folder = write_toy("decoder", tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(CHAT)
    chatting = recipe(tmp_path, folder, FINE, FINE, prompt={"style": "text", "chat_template": True})
    assert (
        prepare(chatting).plan().remarks[0].startswith("prompt.chat_template: answers are learned and tested behind ")
    )
