"""How weights are held, and what is refused before any is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clkit.errors import ModelError
from clkit.models.chain import Chain
from clkit.models.held import check_held
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, LoraTuning, ModelSection

LORA = LoraTuning(method="lora", rank=2)


def test_auto_is_what_the_weights_are_stored_in(toy_llama: Path, tmp_path: Path) -> None:
    family = load_model(ModelSection(name=str(toy_llama)), FullTuning())
    family.model.to(torch.bfloat16).save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    for dtype, expected in (("auto", torch.bfloat16), ("float32", torch.float32)):
        family = load_model(ModelSection.model_validate({"name": str(tmp_path), "dtype": dtype}), LORA)
        found = {p.requires_grad: p.dtype for p in family.model.parameters()}
        assert found == {False: expected, True: torch.float32}


@pytest.mark.parametrize("model", ["toy_llama", "toy_t5"])
def test_each_way_of_attention_gives_the_same_up_to_rounding(model: str, request: pytest.FixtureRequest) -> None:
    name, found = str(request.getfixturevalue(model)), {}
    for way in ("eager", "sdpa"):
        family = load_model(ModelSection.model_validate({"name": name, "attention": way}), FullTuning())
        assert family.model.config._attn_implementation == way
        with torch.no_grad():
            found[way] = family.logits(family.model(**family.probe()), family.probe()["labels"])
    torch.testing.assert_close(found["eager"], found["sdpa"])


def test_what_cannot_be_held_so_is_refused(toy_llama: Path, tmp_path: Path) -> None:
    section = ModelSection(name=str(toy_llama), quantization="4bit")
    pytest.importorskip("bitsandbytes", reason="the extra `quantization` is not installed")
    check_held(Chain(section), None)
    for chain, gguf, said in (
        (Chain(section), "a.gguf", "the GGUF file a.gguf is unpacked"),
        (Chain(section, (tmp_path,)), None, "cannot be merged into quantized weights"),
    ):
        with pytest.raises(ModelError, match=said):
            check_held(chain, gguf)
