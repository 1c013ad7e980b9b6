"""Products of float32 matrices that may be rounded, and what must not be."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.precision import is_rounded, matrix_products, slow_attention

CPU = torch.device("cpu")


def test_the_precision_holds_inside_and_not_behind_an_error() -> None:
    def fail() -> None:
        with matrix_products("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not is_rounded("highest", CPU)


def test_magnitudes_are_summed_in_float32_however_products_are_computed() -> None:
    """Otherwise other rows would be the largest. The control: the same product outside of the collector."""
    if not is_rounded("medium", CPU):
        pytest.skip("this CPU rounds no products")
    generator = torch.Generator().manual_seed(0)
    output, mask = torch.randn(8, 64, 512, generator=generator), torch.ones(8, 64, dtype=torch.bool)
    expected = output.double().abs().sum((0, 1))
    layer = nn.Identity()
    collector = MagnitudeCollector({"l": layer}, lambda name, batch: batch["mask"])
    with matrix_products("medium"), collector.collecting({"mask": mask}):
        layer(output)
        rounded = mask.flatten().float() @ output.flatten(0, 1).abs()
    torch.testing.assert_close(collector.take()["l"].double(), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(rounded.double(), expected, rtol=1e-6, atol=0)


def test_fused_attention_is_remarked_on_where_a_cpu_rounds_its_products() -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaModel(config)
    assert "eager" in str(slow_attention(model.config, CPU, rounded=True))
    assert slow_attention(model.config, CPU, rounded=False) is None
    assert slow_attention(model.config, torch.device("cuda"), rounded=True) is None
    model.set_attn_implementation("eager")
    assert slow_attention(model.config, CPU, rounded=True) is None
