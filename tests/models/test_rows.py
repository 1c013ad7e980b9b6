"""The gradient of chosen rows against autograd's own of the whole weight."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from clkit.models.layers import RowSite
from clkit.models.rows import RowGradients, refusals

ROWS = torch.tensor([0, 2, 5])


def site_of(layer: nn.Module, name: str = "layer") -> RowSite:
    return RowSite(name, name, layer, layer.weight)  # type: ignore[arg-type]


def both(bias: bool, autocast: bool = False, checkpointed: bool = False, whole: bool = False) -> list[nn.Module]:
    """A layer that is called twice, with all of its gradient and with that of `ROWS`, in `grad` too."""
    torch.manual_seed(0)
    stock = nn.Linear(4, 7, bias=bias)
    inputs = [torch.randn(2, 3, 4, requires_grad=True) for _ in range(2)]
    found = []
    for layer in (stock, deepcopy(stock)):
        gradients = None if layer is stock else RowGradients([site_of(layer)], whole)
        if gradients is not None:
            gradients.begin()
        given = [one.detach().clone().requires_grad_() for one in inputs]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            outputs = [checkpoint(layer, one, use_reentrant=False) if checkpointed else layer(one) for one in given]
        if gradients is not None:
            gradients.choose("layer", ROWS)
        sum((one.float() ** 3).sum() for one in outputs).backward()  # type: ignore[union-attr]
        layer.of_inputs = [one.grad for one in given]  # type: ignore[assignment]
        if gradients is not None:
            own = gradients.take("layer")
            assert (own is None) is whole
            if own is not None:
                assert layer.weight.grad is None
                layer.weight.grad = torch.zeros_like(layer.weight).index_copy_(0, ROWS, own)
            gradients.remove()
        found.append(layer)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "how", [{}, {"autocast": True}, {"checkpointed": True}, {"autocast": True, "checkpointed": True}, {"whole": True}]
)
def test_rows_have_the_gradient_of_the_whole_and_inputs_and_bias_theirs(bias: bool, how: dict[str, bool]) -> None:
    stock, ours = both(bias, **how)
    # Autocast's own adds the two calls up in bfloat16.
    near = {"rtol": 1e-2, "atol": 1e-2} if "autocast" in how else {}
    torch.testing.assert_close(ours.weight.grad[ROWS], stock.weight.grad[ROWS], **near)  # type: ignore[index]
    others = [row for row in range(7) if row not in ROWS]
    assert not ours.weight.grad[others].any()  # type: ignore[index]
    for one, other in zip(ours.of_inputs, stock.of_inputs, strict=True):
        assert torch.equal(one, other)
    if bias:
        torch.testing.assert_close(ours.bias.grad, stock.bias.grad, **near)


def test_outside_a_step_and_once_removed_a_layer_is_as_it_was() -> None:
    stock = nn.Linear(4, 7)
    layer = deepcopy(stock)
    gradients = RowGradients([site_of(layer)], whole=False)
    inputs = torch.randn(3, 4)
    for one in (stock, layer):
        one(inputs).square().sum().backward()
    assert torch.equal(layer.weight.grad, stock.weight.grad)  # type: ignore[arg-type]
    assert gradients.take("layer") is None
    gradients.remove()
    assert "forward" not in vars(layer)
    assert torch.equal(layer(inputs), stock(inputs))


def test_what_is_chosen_for_a_step_does_not_last_into_the_next() -> None:
    layer = nn.Linear(4, 7)
    gradients = RowGradients([site_of(layer)], whole=False)
    for rows in (ROWS, torch.tensor([1])):
        gradients.begin()
        loss = layer(torch.ones(1, 4)).sum()
        gradients.choose("layer", rows)
        loss.backward()
        assert torch.equal(gradients.take("layer"), torch.ones(len(rows), 4))  # type: ignore[arg-type]
    gradients.begin()
    assert gradients.take("layer") is None


def test_the_forward_passes_of_a_step_add_up() -> None:
    layer = nn.Linear(4, 7)
    gradients = RowGradients([site_of(layer)], whole=False)
    for inputs in (torch.ones(1, 4), torch.ones(2, 4)):
        gradients.begin()
        loss = layer(inputs).sum()
        gradients.choose("layer", ROWS)
        loss.backward()
    assert torch.equal(gradients.take("layer"), 3 * torch.ones(len(ROWS), 4))  # type: ignore[arg-type]


def test_which_weights_need_their_whole_gradient() -> None:
    class Scaled(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) * 2

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    plain, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = plain.weight
    alone = nn.Linear(3, 3)
    model = nn.ModuleList([plain, tied, alone, Scaled(3, 3), Conv1D(3, 3), nn.Linear(3, 3).half()])

    def refused(module: nn.Module) -> list[str]:
        return [*refusals([site_of(module)], model).values()]

    assert refused(alone) == []
    assert refused(plain) == ["they are tied to other modules'"]
    assert refused(model[5]) == ["they are not of float32"]
    for other in (model[3], model[4], normed):
        assert refused(other) == ["they belong to layers of another kind than a plain linear one"]
