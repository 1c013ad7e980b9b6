"""How a model's weights are held: the arguments of `from_pretrained` that follow from a recipe."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from clkit.errors import ModelError
from clkit.lazy import LazyModule
from clkit.models.chain import Chain

if TYPE_CHECKING:
    import torch
    import transformers
    from torch import nn
else:
    torch, transformers = LazyModule("torch"), LazyModule("transformers")


def check_held(chain: Chain, gguf: str | None) -> None:
    """Check that the weights can be held as the recipe says, before any is loaded.

    Args:
        gguf: the GGUF file that they are in, if they are in one.

    Raises:
        ModelError: they cannot, or this machine lacks what they need.
    """
    section = chain.section
    if section.quantization is not None:
        if find_spec("bitsandbytes") is None:
            raise ModelError("model.quantization: needs bitsandbytes (pip install 'clkit[quantization]')")
        if gguf is not None:
            raise ModelError(f"model.quantization: the GGUF file {gguf} is unpacked as it is read; set it to null")
        if chain.adapters:
            raise ModelError(
                "model.quantization: the adapters that model.name leads to cannot be merged into quantized weights; "
                "merge them first (clkit export), and name that folder"
            )
    if section.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ModelError("model.attention: flash_attention_2 needs a GPU and the package flash-attn; use sdpa")


def held(chain: Chain) -> dict[str, Any]:
    """The arguments: dtype, quantization and attention."""
    section = chain.section
    arguments: dict[str, Any] = {"dtype": "auto" if section.dtype == "auto" else getattr(torch, section.dtype)}
    if section.attention is not None:
        arguments["attn_implementation"] = section.attention
    if section.quantization == "8bit":  # LLM.int8(), https://arxiv.org/abs/2208.07339
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
    if section.quantization == "4bit":  # QLoRA, https://arxiv.org/abs/2305.14314, section 3: the scales quantized too
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if section.dtype == "float32" else torch.bfloat16,
        )
    return arguments


def keep_quantized(model: nn.Module) -> None:
    """Hinder a test from changing quantized weights.

    On some CPUs a layer in 4 bits would round its scales to bfloat16 when it first answers, so that a run which was
    interrupted behind a test would go on with other weights than one that was not.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain attribute
