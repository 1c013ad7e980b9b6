"""Magnitude collection against values computed by hand and by numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clkit.errors import ModelError
from clkit.models import magnitudes
from clkit.models.magnitudes import MagnitudeCollector, l1_normalised

BATCH = {"attention_mask": torch.tensor([[1, 1], [1, 0]])}


def real_tokens(name: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["attention_mask"].bool()


@pytest.fixture
def layer() -> nn.Linear:
    """Doubles its first input and negates its second."""
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    return linear


INPUT = torch.tensor([[[1.0, 10.0], [-2.0, 20.0]], [[3.0, 30.0], [-100.0, 1000.0]]])  # the last position is padding


def test_known_sums_without_and_with_padding(layer: nn.Linear) -> None:
    without, counted = MagnitudeCollector({"l": layer}, real_tokens), MagnitudeCollector({"l": layer})
    with without.collecting(BATCH), counted.collecting(BATCH):
        layer(INPUT)
    assert without.take()["l"].tolist() == [2 + 4 + 6, 10 + 20 + 30]
    assert counted.take()["l"].tolist() == [2 + 4 + 6 + 200, 10 + 20 + 30 + 1000]


def test_micro_batches_add_up_and_take_starts_again(layer: nn.Linear) -> None:
    collector = MagnitudeCollector({"l": layer}, real_tokens)
    for part in (slice(0, 1), slice(1, 2)):
        with collector.collecting({"attention_mask": BATCH["attention_mask"][part]}):
            layer(INPUT[part])
    assert collector.take()["l"].tolist() == [12, 60]
    assert collector.take() == {}


def test_nothing_is_recorded_outside_or_after_removal(layer: nn.Linear) -> None:
    collector = MagnitudeCollector({"l": layer}, real_tokens)
    layer(INPUT)
    assert collector.take() == {}
    collector.remove()
    with collector.collecting(BATCH):
        layer(INPUT)
    assert collector.take() == {}


def test_recomputation_in_the_backward_pass_does_not_count(layer: nn.Linear) -> None:
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    collector = MagnitudeCollector({"l": layer}, real_tokens)
    with collector.collecting(BATCH):
        block = nn.Sequential(layer, nn.Tanh())  # recomputation stops early, so the layer must not come last
        output = checkpoint(block, INPUT.clone().requires_grad_(), use_reentrant=False)
    output.sum().backward()
    assert len(calls) == 2  # the control: the layer did run twice
    assert collector.take()["l"].tolist() == [12, 60]


def test_no_graph_is_kept(layer: nn.Linear) -> None:
    collector = MagnitudeCollector({"l": layer}, real_tokens)
    with collector.collecting(BATCH):
        layer(INPUT)
    assert not collector.take()["l"].requires_grad


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("texts", "units"), [(4, 7), (100, 600)])  # the latter in several blocks, not all whole
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_against_numpy_in_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, texts: int, units: int, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(magnitudes, "kernels", lambda: None)
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(5, units).to(dtype)
    values = torch.randn(texts, 6, 5, generator=generator).to(dtype)
    mask = torch.rand(texts, 6, generator=generator) < 0.6
    collector = MagnitudeCollector({"l": linear}, lambda name, batch: mask)
    with collector.collecting({}):
        output = linear(values)
    expected = np.abs(output.detach().double().numpy())[mask.numpy()].sum(axis=0)
    found = collector.take()["l"]
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-6)


def test_padding_counts_nothing_whatever_it_holds(layer: nn.Linear) -> None:
    collector = MagnitudeCollector({"l": layer}, real_tokens)
    with collector.collecting(BATCH):
        layer(INPUT.masked_fill(INPUT.abs() > 50, torch.inf))
    assert collector.take()["l"].tolist() == [12, 60]


class Strided(nn.Linear):
    """Its output lies in memory with the positions before the texts."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values).transpose(0, 1).contiguous().transpose(0, 1)


def test_an_output_that_is_not_contiguous(layer: nn.Linear) -> None:
    strided = Strided(2, 2, bias=False)
    strided.load_state_dict(layer.state_dict())
    collector = MagnitudeCollector({"l": strided}, real_tokens)
    with collector.collecting(BATCH):
        assert not strided(INPUT).is_contiguous()
    assert collector.take()["l"].tolist() == [12, 60]


def test_a_mask_of_another_size_is_an_error_that_names_the_layer(layer: nn.Linear) -> None:
    collector = MagnitudeCollector({"encoder.q": layer}, lambda name, batch: torch.ones(1, 3, dtype=torch.bool))
    with (
        pytest.raises(ModelError, match=r"layer encoder\.q gives .* 2 × 2 positions where the batch has 1 × 3"),
        collector.collecting(BATCH),
    ):
        layer(INPUT)


def test_l1_normalised() -> None:
    assert l1_normalised(torch.tensor([1.0, 3.0])).tolist() == [0.25, 0.75]
    assert l1_normalised(torch.zeros(4)).tolist() == [0.25] * 4
