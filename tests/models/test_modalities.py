"""Checkpoints that read images too, as Gemma 3's do: what no text reaches is neither trained, masked nor adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from clkit.engine.activations import Activations
from clkit.engine.devices import Device
from clkit.models.family import IGNORED, Family
from clkit.models.layers import linear_layers, trained_parameters
from clkit.models.loading import load_model
from clkit.models.modalities import beside_text
from clkit.models.positions import positions
from clkit.models.sections import AdapterTuning, FullTuning, LoraTuning, ModelSection
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from tests.toy_models import WORDS

IDS = {"vocab_size": 4 + WORDS, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**IDS, **SIZES, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
IMAGES = {**SIZES, "image_size": 28, "patch_size": 14}
PLACES = {"mm_tokens_per_image": 4, "image_token_index": 3, "boi_token_index": 3, "eoi_token_index": 3}
KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gemma3": (
        {"text_config": TEXT, "vision_config": IMAGES, **PLACES},
        ["model.vision_tower", "model.multi_modal_projector"],
    ),
    "t5gemma2": (
        {"encoder": {"text_config": TEXT, "vision_config": IMAGES, **PLACES}, "decoder": TEXT},
        ["model.encoder.vision_tower", "model.encoder.multi_modal_projector"],
    ),
}


@pytest.fixture(params=KINDS)
def saved(request: pytest.FixtureRequest, toy_t5: Path, toy_llama: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    sizes, others = KINDS[request.param]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[request.param](**sizes)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy_t5 if config.is_encoder_decoder else toy_llama).save_pretrained(tmp_path)
    return tmp_path, others


def reached(family: Family) -> set[str]:
    """The parameters that the loss of two texts has a gradient for, whatever is trained."""
    every = dict(family.base.named_parameters())
    asked = {name: parameter.requires_grad for name, parameter in every.items()}
    family.base.requires_grad_(True)
    batch = family.probe()
    logits = family.logits(family.base(**{k: v for k, v in batch.items() if k != "labels"}), batch["labels"])
    loss = logits[batch["labels"] != IGNORED].sum()
    found = torch.autograd.grad(loss, [*every.values()], allow_unused=True)
    for name, parameter in every.items():
        parameter.requires_grad_(asked[name])
    return {name for name, gradient in zip(every, found, strict=True) if gradient is not None}


def test_full_tuning_trains_what_a_text_reaches(saved: tuple[Path, list[str]]) -> None:
    path, others = saved
    family = load_model(ModelSection(name=str(path)), FullTuning())
    assert beside_text(family.base) == others
    assert trained_parameters(family.model).keys() == reached(family)
    assert not [name for name in linear_layers(family.model) if name.startswith(tuple(others))]
    if family.name == "decoder":  # T5Gemma 2 joins the keys of both attentions in one layer
        MIGU(MIGUOptions(name="migu")).check(family, 2)


@pytest.mark.parametrize(
    "tuning", [LoraTuning(method="lora"), LoraTuning(method="lora", targets="all-linear")], ids=["default", "all"]
)
def test_adapters_stand_where_a_text_reaches_them(saved: tuple[Path, list[str]], tuning: AdapterTuning) -> None:
    path, others = saved
    family = load_model(ModelSection(name=str(path)), tuning)
    trained = [name.removeprefix("base_model.model.") for name in trained_parameters(family.model)]
    assert trained
    assert not [name for name in trained if name.startswith(tuple(others))]


def test_sizes_are_those_of_the_part_for_text(saved: tuple[Path, list[str]]) -> None:
    family = load_model(ModelSection(name=str(saved[0])), FullTuning())
    assert positions(family.base).trained == 64
    assert Activations(family, Device.of_this_machine()).heads == 2


def test_models_for_text_alone_have_no_such_parts(toy_llama: Path, toy_t5: Path) -> None:
    for path in (toy_llama, toy_t5):
        assert beside_text(load_model(ModelSection(name=str(path)), FullTuning()).base) == []
