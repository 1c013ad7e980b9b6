"""Weight gradients of chosen rows only: what a linear layer's backward pass computes where the others are masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional

from clkit.models.experts import ExpertWeight
from clkit.models.layers import RowSite


@dataclass
class RowGradient:
    """The gradient of some rows of a weight.

    Attributes:
        rows: their indices, ascending.
        grad: one row for each of them; named as a parameter's, so that a norm can be taken over both alike.
        others: what the step does to the other rows: they `move` by a gradient of zero, `stay`, or stay and are
            `forgotten` by the optimizer, which keeps nothing of them.
    """

    rows: torch.Tensor
    grad: torch.Tensor
    others: Literal["move", "stay", "forgotten"]


class RowGradients:
    """Linear layers whose backward pass computes, inside a step, the gradient of their weight's chosen rows only.

    With y = x Wᵀ and g the gradient of y, the gradient of row i of W is Σ_tokens g_i x, which needs no other column of
    g. The rows are chosen between the forward and the backward pass (`choose`); the forward pass that gradient
    checkpointing repeats then goes through the same function, with the same rows. Outside a step, nothing changes.

    Args:
        sites: those that `refusals` finds nothing against.
        whole: give the weight a gradient of its own shape, zero in the other rows, as a reduction over processes needs;
            otherwise it gets none, and `take` gives the rows'.
    """

    def __init__(self, sites: Iterable[RowSite], whole: bool) -> None:
        self._layers = {site.name: _Layer(cast(nn.Module, site.module), site.weight, whole) for site in sites}

    def __contains__(self, name: str) -> bool:
        """Whether the site is one of these."""
        return name in self._layers

    def begin(self) -> None:
        """A forward pass begins, of whose step the rows are not known yet; several of one step add up."""
        for layer in self._layers.values():
            layer.active, layer.rows = True, None

    def choose(self, name: str, rows: torch.Tensor) -> None:
        """The rows, ascending, of which the backward pass to come computes the gradient; for other sites, nothing."""
        if name in self._layers:
            self._layers[name].rows = rows

    def take(self, name: str) -> torch.Tensor | None:
        """The rows' gradient, rows × d_in; None where the weight was not reached, or has a gradient of its own."""
        layer = self._layers.get(name)
        if layer is None:
            return None
        layer.active, gradient, layer.gradient = False, layer.gradient, None
        return gradient

    def remove(self) -> None:
        """Give the layers their own forward pass back."""
        for layer in self._layers.values():
            del layer.module.forward
        self._layers = {}


def refusals(sites: Sequence[RowSite], model: nn.Module) -> dict[str, str]:
    """Why the gradients of single rows of some weights cannot be computed by themselves, by the names of the sites."""
    owners = Counter(id(one) for module in model.modules() for one in module.parameters(recurse=False))
    found = {site.name: _refusal(site, owners[id(site.weight)]) for site in sites}
    return {name: why for name, why in found.items() if why}


def _refusal(site: RowSite, owners: int) -> str:
    if isinstance(site.module, ExpertWeight):
        return "they are those of fused experts"
    plain = type(site.module).forward is nn.Linear.forward and "forward" not in vars(site.module)
    if not plain or site.module._parameters.get("weight") is not site.weight:
        return "they belong to layers of another kind than a plain linear one"
    if site.weight.dtype != torch.float32:
        return "they are not of float32"
    if _hooks(site.weight):
        return "hooks of another's are on them"
    return "they are tied to other modules'" if owners > 1 else ""


def _hooks(weight: nn.Parameter) -> int:
    """How many want its gradient as soon as it is computed, whole."""
    return sum(len(hooks) for hooks in (weight._backward_hooks, weight._post_accumulate_grad_hooks) if hooks)


class _Layer:
    """A linear layer in a step: its rows once they are chosen, and their gradient once the backward pass was there."""

    def __init__(self, module: nn.Module, weight: nn.Parameter, whole: bool) -> None:
        self.module, self.weight, self.whole = module, weight, whole
        self.hooks = _hooks(weight)  # which need nothing of the gradient
        self.active = False
        self.rows: torch.Tensor | None = None
        self.gradient: torch.Tensor | None = None
        module.forward = self._forward

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # Another weight may stand there for a while (`torch.func.functional_call`), or a hook be on it since.
        own = self.active and torch.is_grad_enabled() and self.module.weight is self.weight
        if not own or _hooks(self.weight) > self.hooks:
            return nn.Linear.forward(self.module, inputs)  # type: ignore[arg-type]
        output: torch.Tensor = _RowLinear.apply(inputs, self.weight, self.module.bias, self)  # type: ignore[no-untyped-call]
        return output

    def weight_gradient(self, gradient: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor | None:
        """That of the rows is kept or, with ``whole``, returned among zeros; both are matrices with a row per token."""
        if self.rows is None:  # whoever went backward without choosing wants all of it
            return gradient.t() @ inputs
        rows = (gradient.index_select(1, self.rows).t() @ inputs).to(self.weight.dtype)
        if self.whole:
            return torch.zeros_like(self.weight).index_copy_(0, self.rows, rows)
        self.gradient = rows if self.gradient is None else self.gradient.add_(rows)
        return None


class _RowLinear(torch.autograd.Function):
    """x Wᵀ + b, whose backward pass leaves the weight's gradient to a `_Layer`."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: Any, layer: _Layer) -> torch.Tensor:
        device = inputs.device.type
        if torch.is_autocast_enabled(device) and inputs.dtype != torch.float64:
            # Autocast would keep the cast weight for whoever uses it next, without its graph.
            lower = torch.get_autocast_dtype(device)
            inputs, weight = inputs.to(lower), weight.detach().to(lower)
            bias = bias if bias is None else bias.detach().to(lower)
        ctx.save_for_backward(inputs, weight)
        ctx.layer = layer
        return functional.linear(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, _, of_bias, _ = ctx.needs_input_grad
        flat = gradient.reshape(-1, gradient.shape[-1])
        return (
            gradient @ weight if of_inputs else None,
            ctx.layer.weight_gradient(flat, inputs.reshape(-1, inputs.shape[-1])),
            flat.sum(0) if of_bias else None,
            None,
        )
