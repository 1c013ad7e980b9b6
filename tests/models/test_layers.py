"""Which linear layers `layers:` names, with and without adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from clkit.models.layers import linear_layers, row_sites, select_layers
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, LoraTuning, ModelSection

SELF, CROSS, FEED = 4, 4, 3


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        (["attention"], 2 * SELF + 2 * (SELF + CROSS)),
        (["feed_forward"], 4 * FEED),
        (["attention", "feed_forward"], 2 * (SELF + FEED) + 2 * (SELF + CROSS + FEED)),
        (["lm_head"], 1),
        (["q"], 2 + 4),
        (["wo", "wo"], 4),
        (["decoder.*"], 2 * (SELF + CROSS + FEED)),
        (["decoder.block.1.*.wi_0"], 1),
    ],
)
def test_roles_names_and_patterns(toy_t5: Path, layers: list[str], count: int) -> None:
    loaded = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    assert len(select_layers(loaded, layers)) == count


def test_adapters_do_not_change_the_names(toy_t5: Path) -> None:
    plain = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    tuned = load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora"))
    assert list(linear_layers(plain.model)) == list(linear_layers(tuned.model))


def test_sites_are_the_trained_weights(toy_t5: Path) -> None:
    plain = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    sites = row_sites(select_layers(plain, ["attention"]))
    assert all(site.weight is site.module.weight for site in sites)
    tuned = load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora", targets=["q"]))
    names = [site.name for site in row_sites(select_layers(tuned, ["attention"]))]
    assert len(names) == 2 * 6
    assert {name.split(".")[-2] for name in names} == {"q"}


def write_gpt2(folder: Path, toy_llama: Path) -> ModelSection:
    """A random GPT-2, whose linear layers keep their weight transposed."""
    config = GPT2Config(vocab_size=41, n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=1, bos_token_id=40)
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy_llama).save_pretrained(folder)
    return ModelSection(name=str(folder))


def test_rows_of_a_transposed_weight_are_its_columns(toy_llama: Path, tmp_path: Path) -> None:
    loaded = load_model(write_gpt2(tmp_path, toy_llama), FullTuning())
    sites = {
        site.name.split(".", 3)[-1]: (*site.shape, site.axis)
        for site in row_sites(select_layers(loaded, ["attention", "feed_forward", "lm_head"]))
    }
    assert sites == {
        "attn.c_attn": (48, 1),
        "attn.c_proj": (16, 1),
        "mlp.c_fc": (64, 1),
        "mlp.c_proj": (16, 1),
        "lm_head": (41, 0),
    }


def test_an_adapter_of_a_transposed_weight_is_not_transposed(toy_llama: Path, tmp_path: Path) -> None:
    tuned = load_model(write_gpt2(tmp_path, toy_llama), LoraTuning(method="lora", rank=4))
    sites = row_sites(select_layers(tuned, ["attention"]))
    assert [(site.name.split(".", 3)[-1], *site.shape, site.axis) for site in sites[:2]] == [
        ("attn.c_attn.lora_A", 4, 0),
        ("attn.c_attn.lora_B", 48, 0),
    ]
