"""Span corruption: how much is masked, what is left, that nothing is lost, and that the same batch is drawn alike."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5ForConditionalGeneration

from clkit.draws import drawn_from
from clkit.errors import ModelError
from clkit.models.embedded import embedded_model_folder
from clkit.models.families.span_corruption import Seq2SeqPretraining, corrupt, sentinel_ids, span_counts
from clkit.models.family import Collator
from clkit.models.objective import Pretraining

SENTINELS = range(1000, 1100)
END, PAD, IGNORED = 1, 0, -100


def restored(source: list[int], target: list[int]) -> list[int]:
    """The text that input and labels were made of: each sentinel of the input gives way to what follows it there."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            last = spans.setdefault(token, [])
        else:
            last.append(token)
    return [token for read in source for token in (spans[read] if read in SENTINELS else [read])]


@given(st.integers(0, 300), st.floats(0.01, 0.6, exclude_max=True), st.floats(1, 20), st.randoms(use_true_random=False))
def test_nothing_of_a_text_is_lost_and_no_sentinel_used_twice(
    tokens: int, share: float, length: float, draw: random.Random
) -> None:
    ids = list(range(tokens))
    masked, spans = span_counts(tokens, share, length)
    if spans >= len(SENTINELS):
        return
    source, target = corrupt(ids, SENTINELS, share, length, draw)
    assert restored(source, target) == ids
    assert [token for token in source if token in SENTINELS] == list(SENTINELS)[:spans]
    assert [token for token in target if token in SENTINELS] == list(SENTINELS)[: spans + 1]
    assert target[-1] == SENTINELS[spans], "the last sentinel says that no span follows"
    assert len(source) == tokens - masked + spans
    if tokens > 1:
        assert source[0] not in SENTINELS
        assert not any(a in SENTINELS and b in SENTINELS for a, b in pairwise(source)), "no two spans touch"


@pytest.mark.parametrize(
    ("tokens", "share", "length", "counts"),
    [
        (512, 0.15, 3.0, (77, 26)),
        (100, 0.15, 3.0, (15, 5)),
        (10, 0.5, 1.0, (5, 5)),
        (10, 0.9, 1.0, (9, 1)),  # no two spans touch
        (2, 0.01, 3.0, (1, 1)),
        (1, 0.15, 3.0, (1, 1)),
        (0, 0.15, 3.0, (0, 0)),
    ],
)
def test_how_much_is_masked(tokens: int, share: float, length: float, counts: tuple[int, int]) -> None:
    assert span_counts(tokens, share, length) == counts


def test_every_way_to_mask_is_equally_likely() -> None:
    """5 tokens, 2 masked in 2 spans: runs u m u m (m) with u1 + u2 = 3 and m1 = m2 = 1, so two ways."""
    draw = random.Random(0)
    drawn = [tuple(corrupt(range(5), SENTINELS, 0.4, 1.0, draw)[1]) for _ in range(2000)]
    ways = {(1000, 1, 1001, 4, 1002), (1000, 2, 1001, 4, 1002)}
    assert set(drawn) == ways
    assert all(abs(drawn.count(way) / 2000 - 0.5) < 0.04 for way in ways)


def test_spans_have_their_mean_length() -> None:
    draw = random.Random(0)
    lengths: list[int] = []
    for _ in range(50):
        _, target = corrupt(range(500), SENTINELS, 0.15, 4.0, draw)
        places = [place for place, token in enumerate(target) if token in SENTINELS]
        lengths += [after - before - 1 for before, after in pairwise(places)]
    assert fmean(lengths) == pytest.approx(4, abs=0.1)
    assert len(set(lengths)) > 8, "they differ"


def test_a_draw_follows_from_the_rows_alone() -> None:
    def first(rows: list[list[int]]) -> float:
        return drawn_from(rows).random()

    assert first([[1, 2], [3]]) == first([[1, 2], [3]])
    assert len({first(rows) for rows in ([[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[12], [3]], [[1, 2, 3]])}) == 5
    # Written down, so that another machine or release that drew otherwise would be noticed.
    assert first([[1, 2], [3]]) == 0.558503486193639


class TestFamily:
    """The family's class, with the tokenizer and the model that come with clkit."""

    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(embedded_model_folder("tiny-t5"))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> T5ForConditionalGeneration:
        return T5ForConditionalGeneration.from_pretrained(embedded_model_folder("tiny-t5")).eval()

    @pytest.fixture
    def family(self, tokenizer: PreTrainedTokenizerBase, model: T5ForConditionalGeneration) -> Seq2SeqPretraining:
        return Seq2SeqPretraining(model, tokenizer, Pretraining(kind="pretraining", block_tokens=64))

    @pytest.fixture
    def collate(self, family: Seq2SeqPretraining) -> Collator:
        return family.collator()

    @pytest.fixture
    def examples(self, family: Seq2SeqPretraining) -> list[dict[str, list[int]]]:
        texts = ["the council voted on the new budget " * 4, "a match", "the team won the final in the last minute"]
        encoded = family.encode([""] * 3, texts)
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    def test_a_batch_holds_the_texts_and_ends_right(
        self,
        collate: Collator,
        examples: list[dict[str, list[int]]],
        tokenizer: PreTrainedTokenizerBase,
        model: T5ForConditionalGeneration,
    ) -> None:
        batch = collate(examples)
        sentinels = sentinel_ids(tokenizer)
        assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
        assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != PAD)
        assert torch.equal(batch["decoder_input_ids"], model.prepare_decoder_input_ids_from_labels(batch["labels"])), (
            "which reads each label one position later"
        )
        for example, source, target in zip(examples, batch["input_ids"], batch["labels"], strict=True):
            read = [token for token in source.tolist() if token != PAD]
            written = [token for token in target.tolist() if token != IGNORED]
            assert END not in example["input_ids"]
            assert read.pop() == written.pop() == END
            assert written[-1] in sentinels
            spelt = {token: place + SENTINELS[0] for place, token in enumerate(sentinels)}
            as_numbers = ([spelt.get(token, token) for token in ids] for ids in (read, written))
            assert restored(*as_numbers) == example["input_ids"]

    def test_the_same_batch_is_masked_alike_and_another_otherwise(
        self, collate: Collator, examples: list[dict[str, list[int]]]
    ) -> None:
        torch.manual_seed(1)
        first = collate(examples)
        torch.manual_seed(2)
        again = collate(examples)
        assert all(torch.equal(first[name], again[name]) for name in first)
        alone = collate(examples[:1])
        assert alone["labels"][0].tolist() != [token for token in first["labels"][0].tolist() if token != IGNORED]

    def test_the_share_and_the_length_of_the_recipe_count(
        self, tokenizer: PreTrainedTokenizerBase, model: T5ForConditionalGeneration
    ) -> None:
        objective = Pretraining(kind="pretraining", block_tokens=64, masked_share=0.5, span_length=8)
        batch = Seq2SeqPretraining(model, tokenizer, objective).collator()([{"input_ids": list(range(100, 140))}])
        assert batch["labels"].shape == (1, 20 + 2 + 1 + 1)  # 20 masked in round(20 / 8) spans, last sentinel, end

    def test_it_has_no_answers(self, family: Seq2SeqPretraining) -> None:
        with pytest.raises(ModelError, match="pretraining has no answers"):
            family.answer([""], None)  # type: ignore[arg-type]

    def test_too_few_sentinels_are_named_with_what_to_do(
        self, tokenizer: PreTrainedTokenizerBase, model: T5ForConditionalGeneration
    ) -> None:
        family = Seq2SeqPretraining(model, tokenizer, Pretraining(kind="pretraining", block_tokens=512))
        with pytest.raises(ModelError) as error:
            family.collator()
        assert str(error.value) == (
            "the tokenizer has 24 sentinels (<extra_id_0>, ...), and a block of 512 tokens needs 27; "
            "lower objective.block_tokens or raise objective.span_length"
        )
        longer = Pretraining(kind="pretraining", block_tokens=512, span_length=4)
        Seq2SeqPretraining(model, tokenizer, longer).collator()


def test_a_tokenizer_without_sentinels_is_refused(toy_t5: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_t5)
    assert sentinel_ids(tokenizer) == []
    model = T5ForConditionalGeneration.from_pretrained(toy_t5)
    with pytest.raises(ModelError, match=r"has no sentinels \(<extra_id_0>, ...\), which span corruption needs; use"):
        Seq2SeqPretraining(model, tokenizer, Pretraining(kind="pretraining")).collator()


def test_the_sentinels_of_mt5_are_found(toy_t5: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_t5)
    tokenizer.add_tokens(["▁<extra_id_1>", "▁<extra_id_0>", "▁<extra_id_3>"])
    assert sentinel_ids(tokenizer) == tokenizer.convert_tokens_to_ids(["▁<extra_id_0>", "▁<extra_id_1>"])


def test_a_real_t5_has_a_hundred(t5_tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5_tiny)
    assert len(sentinel_ids(tokenizer)) == 100
