from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from clkit.errors import ModelError
from clkit.models.embedded import EMBEDDED_MODELS, embedded_model_folder
from clkit.tasks.sources.sample import corpus, sample_rows, sample_tasks
from tools.make_tiny_t5 import corrupt, make_tokenizer, word_vectors

FOLDER = embedded_model_folder("tiny-t5")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(FOLDER, local_files_only=True)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown embedded model 'tiny' \(known: tiny-llama, tiny-roberta, tiny-t5\)"):
        embedded_model_folder("tiny")


def test_each_embedded_model_is_there() -> None:
    for name in EMBEDDED_MODELS:
        assert (embedded_model_folder(name) / "config.json").is_file()


def test_the_weights_are_small_enough_to_ship() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000


def test_special_tokens_are_those_of_t5(tokenizer: Any, model: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.decoder_start_token_id) == (0, 1, 0)
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("name", list(sample_tasks()))
def test_the_tokenizer_spells_the_sample_without_loss(name: str, tokenizer: Any) -> None:
    task = sample_tasks()[name]
    texts = [text for split in ("train", "test") for text, _ in sample_rows(name, split)]
    for text in [*texts, *task.labels, task.instruction, task.group]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert max(ids) < len(tokenizer)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_an_answer_is_short(tokenizer: Any) -> None:
    for task in sample_tasks().values():
        for label in task.labels:
            assert len(tokenizer(label)["input_ids"]) <= 6


def test_any_ascii_text_is_spelled_without_loss(tokenizer: Any) -> None:
    text = 'Zyx_9 {"quoted": [1,2]} <tag/> 50% @home ~ #7 & co; it\'s $3^2 | back\\slash `code`'
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_it_generates(tokenizer: Any, model: Any) -> None:
    batch = tokenizer(["The senator opposed the treaty.", "Yes?"], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert answers.shape[0] == 2


def test_it_does_not_know_the_tasks_yet(tokenizer: Any, model: Any) -> None:
    """Learning must be real: without training, no test example is answered."""
    for task in sample_tasks().values():
        rows = sample_rows(task.name, "test")[:20]
        prompts = [f"{task.instruction}\nOption: {', '.join(task.labels)}\n{text}\nAnswer:" for text, _ in rows]
        with torch.no_grad():
            ids = model.generate(**tokenizer(prompts, padding=True, return_tensors="pt"), max_new_tokens=8)
        answers = tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert sum(answer.strip() == label for answer, (_, label) in zip(answers, rows, strict=True)) <= 1


def test_corruption_hides_spans_and_the_target_restores_them() -> None:
    ids, sentinels = list(range(100, 140)), list(range(900, 924))
    source, target = corrupt(ids, sentinels, random.Random(0))
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in sentinels:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    restored = [piece for token in source[:-1] for piece in spans.get(token, [token])]
    assert restored == ids
    assert source[-1] == target[-1] == 1


def test_the_tokenizer_is_the_same_each_time() -> None:
    texts = list(corpus(400, seed=7))
    assert make_tokenizer(texts).get_vocab() == make_tokenizer(texts).get_vocab()


def test_pieces_that_share_texts_get_near_vectors_and_unseen_pieces_get_none() -> None:
    vectors = word_vectors([[0, 1], [0, 1], [2, 3], [2, 3]], vocab_size=5, size=4)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 1
    assert not vectors[4].any()
