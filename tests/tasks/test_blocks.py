"""Blocks of plain text: none is too long, nothing is lost or repeated, none is emptier than a word's end demands."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from clkit.errors import DataError
from clkit.models.embedded import embedded_model_folder
from clkit.tasks import blocks as module
from clkit.tasks.blocks import SPARE, begins, blocks
from clkit.tasks.sources.sample import corpus

# Words, wide spaces, line breaks, scripts without spaces, an emoji of several code points, a control sign, an accent.
LETTERS = st.sampled_from(
    [*"abcdefgh ,.", "  ", "\n", "\n\n\n", "\t", "日本語", "é", "e\u0301", "👩‍🚀", "\x01", "ﬁ", "\u00a0"]
)
TEXTS = st.lists(st.lists(LETTERS, max_size=60).map("".join), max_size=12)
WORDS = st.lists(st.lists(st.integers(0, 36).map("w{}".format), max_size=40).map(" ".join), max_size=12)


def byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as of RoBERTa and GPT-2, for which a word at the beginning is another than after a space."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizers(request: pytest.FixtureRequest, flat_t5: Path) -> dict[str, Any]:
    """Words (toy), pieces with a prefix space (T5), bytes and pairs of them (RoBERTa), bytes without offsets (ByT5)."""
    return {
        "words": AutoTokenizer.from_pretrained(flat_t5),
        "unigram": AutoTokenizer.from_pretrained(embedded_model_folder("tiny-t5")),
        "byte-level": byte_level(list(corpus(300, 1))),
        "bytes": ByT5Tokenizer(),
    }


def solid(texts: list[str]) -> str:
    """The texts without any white space."""
    return "".join("".join(texts).split())


def lengths(made: list[str], tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer(made)["input_ids"]] if made else []


EVERY = pytest.mark.parametrize("name", ["words", "unigram", "byte-level", "bytes"])
PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@EVERY
@PROPERTY
@given(texts=TEXTS, block_tokens=st.integers(12, 40), window=st.sampled_from([1, 50, 100_000]))
def test_no_block_is_too_long_and_nothing_lost_or_repeated(
    tokenizers: dict[str, Any], name: str, texts: list[str], block_tokens: int, window: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", window)
        made = blocks(texts, tokenizers[name], block_tokens)
    assert solid(made) == solid(texts)
    assert all(length <= block_tokens for length in lengths(made, tokenizers[name]))
    assert all(block.strip() == block != "" for block in made)


@PROPERTY
@given(texts=WORDS, block_tokens=st.integers(8, 40))
def test_words_fill_every_block_but_the_last_to_the_last_token(
    tokenizers: dict[str, Any], texts: list[str], block_tokens: int
) -> None:
    made = blocks(texts, tokenizers["words"], block_tokens)
    assert all(length == block_tokens for length in lengths(made, tokenizers["words"])[:-1])
    assert [word for block in made for word in block.split()] == [word for text in texts for word in text.split()]


@pytest.mark.parametrize("block_tokens", [16, 64, 512])
@pytest.mark.parametrize("name", ["unigram", "byte-level", "bytes"])
def test_real_text_fills_blocks_and_is_cut_between_words(
    tokenizers: dict[str, Any], name: str, block_tokens: int
) -> None:
    texts = list(corpus(150, 7))
    made = blocks(texts, tokenizers[name], block_tokens)
    assert solid(made) == solid(texts)
    found = lengths(made, tokenizers[name])
    assert max(found) <= block_tokens
    # A word's end, and the two tokens that a cut can save: the separator's, and the space before the first word.
    assert min(found[:-1]) >= block_tokens * (1 - SPARE) - 4
    assert len(made) > 5
    if block_tokens == 512:
        words = {word for text in texts for word in text.split()}
        assert all(word in words for block in made for word in block.split()), "no word is cut"


def test_texts_keep_their_order_and_a_line_between_them(tokenizers: dict[str, Any]) -> None:
    made = blocks(["w1 w2\nw3 ", "  ", "w4", "", "w5 w6"], tokenizers["words"], 8)
    assert made == ["w1 w2\nw3\n\nw4\n\nw5 w6"]
    assert blocks(["", " \n"], tokenizers["words"], 8) == blocks([], tokenizers["words"], 8) == []


def test_how_texts_are_parted_does_not_matter_to_the_cuts(tokenizers: dict[str, Any], monkeypatch: Any) -> None:
    texts = list(corpus(60, 3))
    at_once = blocks(texts, tokenizers["unigram"], 48)
    monkeypatch.setattr(module, "WINDOW", 1)
    assert blocks(texts, tokenizers["unigram"], 48) == at_once


def test_a_word_longer_than_a_block_is_cut(tokenizers: dict[str, Any]) -> None:
    word = "".join(random.Random(0).choices("abcdefghij", k=500))
    for name in ("unigram", "byte-level", "bytes"):
        made = blocks(["short", word, "end"], tokenizers[name], 20)
        assert solid(made) == f"short{word}end"
        assert min(lengths(made, tokenizers[name])[:-1]) > 10


def test_a_block_without_room_is_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(DataError) as error:
        blocks(["one 👩 two"], tokenizers["byte-level"], 4)
    assert str(error.value) == (
        "objective.block_tokens: 4 tokens do not hold '👩' beside the special ones; set it to more"
    )
    with pytest.raises(DataError, match="1 tokens do not hold 'w'"):
        blocks(["w1 w2"], tokenizers["words"], 1)


def test_a_real_t5_tokenizer(t5_tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5_tiny)
    texts = list(corpus(300, 9))
    made = blocks(texts, tokenizer, 128)
    found = lengths(made, tokenizer)
    assert solid(made) == solid(texts)
    assert 128 * (1 - SPARE) - 4 <= min(found[:-1]) <= max(found) <= 128


def test_each_block_knows_the_text_that_it_begins_in(tokenizers: dict[str, Any]) -> None:
    texts = ["", "one two three", "  \n", "four five six seven eight", "nine"]
    made = blocks(texts, tokenizers["byte-level"], 14)
    words = [word for text in texts for word in text.split()]
    owner = [index for index, text in enumerate(texts) for _ in text.split()]
    at = 0
    for block, begun in zip(made, begins(texts, made), strict=True):
        assert block.split()[0] == words[at]
        assert begun == owner[at]
        at += len(block.split())
    assert len(made) > 1
