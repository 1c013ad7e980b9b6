"""The random models that stand for an encoder and a decoder in a miniature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from clkit.models.embedded import embedded_model_folder
from clkit.tasks.sources.sample import sample_rows, sample_tasks
from tools.make_random import KINDS, MAX_TOKENS, make_model, make_tokenizer

CLASSES: dict[str, Any] = {"tiny-roberta": AutoModelForMaskedLM, "tiny-llama": AutoModelForCausalLM}
every_model = pytest.mark.parametrize("name", KINDS)


@every_model
def test_it_is_what_its_script_makes(name: str) -> None:
    folder, kind = embedded_model_folder(name), KINDS[name]
    shipped, made = CLASSES[name].from_pretrained(folder), make_model(kind)
    assert type(shipped) is type(made)
    assert {key: value.shape for key, value in shipped.state_dict().items()} == {
        key: value.shape for key, value in made.state_dict().items()
    }
    assert (folder / "model.safetensors").stat().st_size < 500_000
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == make_tokenizer(kind).get_vocab()


@every_model
def test_its_tokenizer_spells_the_sample_between_its_special_tokens(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder(name))
    model = CLASSES[name].from_pretrained(embedded_model_folder(name))
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    ends = {"tiny-roberta": (1, 1), "tiny-llama": (1, 0)}[name]
    for task in sample_tasks():
        for text, _ in sample_rows(task, "test")[:20]:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert (ids[0] == tokenizer.bos_token_id, ids[-1] == tokenizer.eos_token_id) == tuple(map(bool, ends))
            assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(ids) - sum(ends)


@every_model
def test_it_reads_as_many_tokens_as_its_tokenizer_says(name: str) -> None:
    model = CLASSES[name].from_pretrained(embedded_model_folder(name))
    with torch.no_grad():
        logits = model(input_ids=torch.full((1, MAX_TOKENS), 7)).logits
    assert logits.shape == (1, MAX_TOKENS, model.config.vocab_size)
    assert AutoTokenizer.from_pretrained(embedded_model_folder(name)).model_max_length == MAX_TOKENS
