"""Each option of an adapter does what peft says it does, and comes back from a saved stage bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from clkit.errors import ModelError
from clkit.models.adapters import merge_adapter
from clkit.models.family import Family
from clkit.models.loading import load_model, save_model
from clkit.models.sections import IncrementalLoraTuning, LoraTuning, ModelSection
from tests.models.test_adapters import close, learn, logits

OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "olora": {"init": "olora"},
    "pissa": {"init": "pissa"},
    "whole": {"modules_to_save": ["final_layer_norm"]},
    "all-linear": {"targets": "all-linear"},
    "pattern": {"targets": ["encoder.*.[qo]"]},
}


def tuned(model: Path, method: str = "lora", **options: Any) -> Family:
    kind = {"lora": LoraTuning, "incremental_lora": IncrementalLoraTuning}[method]
    torch.manual_seed(0)
    return load_model(ModelSection(name=str(model)), kind.model_validate({"method": method, "rank": 2, **options}))


@pytest.mark.parametrize("method", ["lora", "incremental_lora"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_saved_stage_comes_back_bit_by_bit_and_loads_in_stock_peft(
    option: str, method: str, toy_t5: Path, tmp_path: Path
) -> None:
    family = tuned(toy_t5, method, **OPTIONS[option])
    begun = logits(family.model)
    learn(family, 0)
    save_model(family, tmp_path)
    expected = logits(family.model)
    assert not close(begun, expected)
    kind = {"lora": LoraTuning, "incremental_lora": IncrementalLoraTuning}[method]
    tuning = kind.model_validate({"method": method, "rank": 2, **OPTIONS[option]})
    again = load_model(ModelSection(name=str(toy_t5)), tuning, [tmp_path])
    assert torch.equal(logits(again.model), expected)
    stock = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(toy_t5), tmp_path / "adapter")
    assert close(logits(stock), expected)
    merge_adapter(again)
    torch.testing.assert_close(logits(again.model), expected, rtol=1e-3, atol=1e-3)  # it is rounded on its way


@pytest.mark.parametrize("option", [name for name in OPTIONS if name not in ("whole", "all-linear", "pattern")])
def test_a_fresh_adapter_changes_no_answer(option: str, toy_t5: Path) -> None:
    plain = logits(AutoModelForSeq2SeqLM.from_pretrained(toy_t5))
    assert close(logits(tuned(toy_t5, **OPTIONS[option]).model), plain)


def test_each_begins_otherwise(toy_t5: Path) -> None:
    def begun(**options: Any) -> torch.Tensor:
        parameters = dict(tuned(toy_t5, **options).model.named_parameters())
        return torch.cat([parameters[name].flatten() for name in sorted(parameters) if "lora_A" in name])

    found = [begun(init=init) for init in ("zero", "gaussian", "orthogonal", "olora", "pissa")]
    assert all(not torch.equal(one, other) for n, one in enumerate(found) for other in found[:n])


def carriers(family: Family) -> set[str]:
    names = (name for name, _ in family.model.named_parameters() if "lora_A" in name)
    return {name.removeprefix("base_model.model.").partition(".lora_A")[0] for name in names}


def test_targets_are_every_linear_layer_or_those_of_a_pattern(toy_t5: Path, toy_llama: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(toy_llama)
    linear = {name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    assert carriers(tuned(toy_llama, targets="all-linear")) == linear - {"lm_head"}
    found = carriers(tuned(toy_t5, targets=["encoder.*.[qo]", "wo"]))
    assert {name.split(".")[0] for name in found} == {"encoder", "decoder"}
    assert {name.split(".")[-1] for name in found if "Attention" in name} == {"q", "o"}
    assert not any("Attention" in name for name in found if name.startswith("decoder"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ["encoder.*.query"]}, r"tuning\.targets: 'encoder\.\*\.query' fits no linear layer"),
        ({"modules_to_save": ["lm_heads"]}, r"modules_to_save: 'lm_heads' names no part .*did you mean 'lm_head'"),
        ({"modules_to_save": ["lm_head"]}, r"'lm_head' shares its weight with the word embeddings"),
        ({"modules_to_save": ["embed_tokens"]}, r"embed_tokens' shares its weight with the output layer"),
        ({"modules_to_save": ["self_attn"]}, r"self_attn' is to be trained whole, and .*q_proj' to carry an adapter"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str, toy_llama: Path) -> None:
    with pytest.raises(ModelError, match=said):
        tuned(toy_llama, **options)
