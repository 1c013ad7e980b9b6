"""One adapter in place of several, against the closed form W + Σ s_i B_i A_i and as stock peft reads it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM

from clkit.errors import ModelError
from clkit.models.exporting import Adapter, summed


def adapter(model: Path, seed: int, **settings: Any) -> Adapter:
    """An adapter whose matrices are all drawn at random."""
    torch.manual_seed(seed)
    made = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(model), LoraConfig(**settings))
    tensors = get_peft_model_state_dict(made)
    return made.peft_config["default"], {name: torch.randn_like(one) for name, one in tensors.items()}


def test_several_adapters_are_one_of_the_summed_rank(toy_t5: Path, tmp_path: Path) -> None:
    """With ranks, scales and layers of their own, also within an adapter; one of them is rank-stabilised."""
    adapters = [
        adapter(toy_t5, 0, r=2, lora_alpha=4, target_modules=["q", "v"]),
        adapter(toy_t5, 1, r=3, lora_alpha=6, target_modules=["q", "v"], use_rslora=True),
        adapter(toy_t5, 2, r=4, lora_alpha=2, target_modules=["k", "v"], rank_pattern={"v": 3}, alpha_pattern={"v": 5}),
    ]
    scales = [{"q": 4 / 2, "v": 4 / 2}, {"q": 6 / math.sqrt(3), "v": 6 / math.sqrt(3)}, {"k": 2 / 4, "v": 5 / 3}]
    config, tensors = summed(adapters)
    assert config.r == 9
    config.save_pretrained(str(tmp_path))
    save_file(dict(tensors), tmp_path / "adapter_model.safetensors")
    base = AutoModelForSeq2SeqLM.from_pretrained(toy_t5)
    expected = {name: one.double() for name, one in base.state_dict().items()}
    for scale, (_, own) in zip(scales, adapters, strict=True):
        for name in (name for name in own if name.endswith(".lora_A.weight")):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up, down = own[name.replace("lora_A", "lora_B")].double(), own[name].double()
            expected[f"{layer}.weight"] = expected[f"{layer}.weight"] + scale[layer[-1]] * up @ down
    merged = PeftModel.from_pretrained(base, tmp_path).merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    for name, one in merged.items():
        torch.testing.assert_close(one.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_one_adapter_stays_as_it_is_to_the_bit(toy_t5: Path) -> None:
    config, tensors = adapter(toy_t5, 3, r=3, lora_alpha=5, target_modules=["q"])
    same, copied = summed([(config, tensors)])
    assert (same.r, same.lora_alpha, same.target_modules) == (3, 5, {"q"})
    assert copied.keys() == tensors.keys()
    assert all(torch.equal(copied[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", [{"use_dora": True}, {"bias": "lora_only"}])
def test_adapters_of_other_kinds_go_alone(toy_t5: Path, kind: dict[str, Any]) -> None:
    config, tensors = adapter(toy_t5, 4, r=2, target_modules=["q", "v"], **kind)
    assert summed([(config, tensors)]) == (config, tensors)
    with pytest.raises(ModelError, match="cannot be summed with others"):
        summed([(config, tensors)] * 2)
