"""How precisely products of float32 matrices are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Inside, products of float32 matrices are computed so (`torch.set_float32_matmul_precision`)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def precisely(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed in float32, within autocast and with any precision of matrix products."""
    with torch.autocast(device.type, enabled=False), matrix_products("highest"):
        yield


def is_rounded(precision: str, device: torch.device) -> bool:
    """Whether that precision changes products on this device at all, which depends on the machine."""
    factor = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    with matrix_products("highest"):
        exact = factor @ factor
    with matrix_products(precision):
        return not torch.equal(factor @ factor, exact)


def is_rounding(
    found: torch.Tensor, right: torch.Tensor, wrong: torch.Tensor, model: PreTrainedModel, *, fine: float, coarse: float
) -> bool:
    """Whether what a model put out is right but for rounding.

    Args:
        fine, coarse: how far it may be off, as a share of how far what is wrong is: in float32, and in types of weights
            with fewer digits.
    """
    is_fine = model.dtype in (torch.float32, torch.float64) and not getattr(model, "is_quantized", False)
    off, at_most = ((one.float() - right.float()).abs().max() for one in (found, wrong))
    return bool(off <= (fine if is_fine else coarse) * at_most)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 by units of its own: GPUs since Ampere, CPUs with AMX.

    On such a CPU, with one thread, forward and backward pass together take 0.65 of a float32 step at the shapes of
    SmolLM2-135M, and 1.2 at 64 units, where casting costs more than it saves. What other CPUs have is slower than this.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def slow_attention(config: Any, device: torch.device, rounded: bool) -> str | None:
    """A remark where another way of computing attention is faster on this machine.

    On CPUs, torch's fused attention (`sdpa`) computes the rounded products of its backward pass five times slower than
    they are computed one by one: at the shapes of SmolLM2-135M and 100 tokens, a whole step with them in bfloat16 takes
    0.72 of one with it, with `matmul: medium` 0.64; from about 500 tokens on both are alike.

    Args:
        rounded: whether products are computed in bfloat16.
    """
    if not rounded or device.type != "cpu" or getattr(config, "_attn_implementation", None) != "sdpa":
        return None
    return "model.attention: on a CPU that computes in bfloat16, eager makes a step of short texts a third faster"
