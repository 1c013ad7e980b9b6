"""Decoders as classifiers: the head reads each text's last token, whatever fills up the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MambaConfig,
)

from clkit.errors import ModelError
from clkit.models.families.decoder_classifier import DecoderClassifier
from clkit.models.family import Family
from clkit.models.layers import select_layers
from clkit.models.loading import load_model, save_model
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import Classification
from clkit.models.sections import FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection, Tuning
from tests.models.test_adapters import learn
from tests.models.test_classifier import LABELS, PER_TASK_ROWS, task

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SMALL | {"num_key_value_heads": 1},
    "qwen3": SMALL | {"num_key_value_heads": 1, "head_dim": 8},
    "gpt2": GPT,
    "gpt_neox": SMALL,
}
PROMPTS = ["w1 w2 w3 w4 w5 w6", "w7", "w8 w9"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def write(kind: str, folder: Path, tokenizer: Path, **special: Any) -> Path:
    """A language model without padding token, as GPT-2 and Llama come."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=41, bos_token_id=40, eos_token_id=1, pad_token_id=None, **KINDS[kind])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer, **special).save_pretrained(folder)
    return folder


def load(folder: Path, tuning: Tuning | None = None, stages: tuple[Path, ...] = (), heads: Any = "shared") -> Family:
    torch.manual_seed(5)
    objective = Classification(kind="classification", heads=heads)
    return load_model(ModelSection(name=str(folder)), tuning or FullTuning(), stages, objective, LABELS)


@pytest.mark.parametrize("padding", ["<pad>", None])
@every_kind
def test_a_text_has_the_logits_of_its_last_token_alone_or_in_a_batch(
    kind: str, padding: str | None, toy_llama: Path, tmp_path: Path
) -> None:
    family = load(write(kind, tmp_path / "model", toy_llama, pad_token=padding, padding_side="left"))
    assert isinstance(family, DecoderClassifier)
    family.see(["a", "b"])
    family.model.eval()
    encoded = family.encode(PROMPTS, ["yes", "no", "maybe"], ["a", "a", "b"])
    batch = family.collator()([dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)])
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    assert inputs["attention_mask"].sum(dim=1).tolist() == [len(ids) for ids in encoded["input_ids"]]
    with torch.no_grad():
        logits = family.model(**inputs).logits
        for row, ids in zip(logits, encoded["input_ids"], strict=True):
            hidden = family.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            torch.testing.assert_close(row, family.model.score(hidden), rtol=1e-4, atol=1e-5)
    family.model.save_pretrained(tmp_path / "stock")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock")
    torch.testing.assert_close(stock(**inputs).logits, logits)
    assert stock.config.id2label == {0: "yes", 1: "no", 2: "maybe"}


@every_kind
def test_magnitudes_of_the_head_are_those_of_the_last_tokens(kind: str, toy_llama: Path, tmp_path: Path) -> None:
    family = load(write(kind, tmp_path, toy_llama))
    family.model.eval()
    layers = select_layers(family, ["attention", "feed_forward", "head"])
    assert "score" in layers
    collector, batch = MagnitudeCollector(layers, family.token_mask), family.probe()
    with torch.no_grad(), collector.collecting(batch):
        logits = family.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    sums = collector.take()
    assert sums.keys() == layers.keys()
    torch.testing.assert_close(sums["score"], logits.abs().sum(dim=0))


@pytest.mark.parametrize(
    "tuning",
    [
        FullTuning(),
        LoraTuning(method="lora", rank=2),
        IncrementalLoraTuning(method="incremental_lora", rank=2),
    ],
    ids=lambda tuning: tuning.method,
)
def test_the_head_is_trained_and_survives_saving_and_loading(tuning: Tuning, toy_llama: Path, tmp_path: Path) -> None:
    family = load(toy_llama, tuning, heads="per_task")
    assert family.remarks[-1] == "head drawn at random"
    learn(family, 0)
    save_model(family, tmp_path / "stage")
    again = load(toy_llama, tuning, (tmp_path / "stage",), heads="per_task")
    for one in (family, again):
        one.see(["a"])
        one.model.eval()
    assert [*again.model.config.id2label.values()] == PER_TASK_ROWS[:2]
    for name in LABELS:
        scores = [one.scores(PROMPTS, task(name)) for one in (family, again)]
        assert scores[0] == scores[1]
        assert all(row.keys() == {f"{label}" for label in LABELS[name]} for row in scores[0])
    trained = {name for name, parameter in again.model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in trained)


def test_a_decoder_without_such_a_head_is_refused(toy_llama: Path, tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=41, hidden_size=16, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy_llama).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r": transformers has no classifier of type 'mamba'; use another model$"):
        load(tmp_path)
