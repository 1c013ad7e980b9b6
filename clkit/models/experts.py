"""The experts of a mixture, fused into one tensor: what each of their rows puts out for the tokens sent there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class ExpertWeight:
    """A weight of fused experts: E × d_out × d_in, or E × d_in × d_out in models that keep it transposed."""

    experts: nn.Module
    name: str

    @property
    def weight(self) -> nn.Parameter:
        return cast(nn.Parameter, getattr(self.experts, self.name))

    @property
    def rows(self) -> int:
        """d_out."""
        return self.weight.shape[self.axis]

    @property
    def axis(self) -> int:
        """The dimension of d_out."""
        return 2 if self.experts.is_transposed else 1

    @property
    def bias(self) -> nn.Parameter | None:
        """E × d_out, where there is one."""
        return cast(nn.Parameter, getattr(self.experts, f"{self.name}_bias")) if self.experts.has_bias else None


#: The tokens that an expert is sent, and its output for them: tokens × d_out.
Sent = tuple[torch.Tensor, torch.Tensor]
#: Takes a weight, the states of all tokens, and what was sent to each expert that was used.
Record = Callable[[ExpertWeight, torch.Tensor, Mapping[int, Sent]], None]


def expert_weights(module: nn.Module) -> list[ExpertWeight]:
    """Both of a module that holds fused experts as transformers does (`use_experts_implementation`); else none."""
    if not all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "down_proj")):
        return []
    return [ExpertWeight(module, "gate_up_proj" if module.has_gate else "up_proj"), ExpertWeight(module, "down_proj")]


class ObservedExperts:
    """Computes fused experts one by one, so that what each puts out can be seen; in transformers' ways it cannot.

    The result is theirs to within rounding. Only experts that tokens are sent to are computed.
    """

    def __init__(self, experts: nn.Module, record: Record) -> None:
        self._experts: Any = experts
        self._record = record
        experts.forward = self._forward

    def remove(self) -> None:
        """Give the module its own forward pass back."""
        del self._experts.forward

    def _forward(self, states: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Σ over a token's experts of its share times the expert's answer: tokens × d_model.

        Args:
            states: tokens × d_model.
            chosen: each token's experts, tokens × k; a number past the last one is none.
            shares: of these experts, tokens × k.
        """
        experts = self._experts
        up, down = expert_weights(experts)
        ups, downs = _parts(up), _parts(down)
        inner: dict[int, Sent] = {}
        outer: dict[int, Sent] = {}
        answer = torch.zeros_like(states)
        for expert in (one for one in torch.unique(chosen).tolist() if one < len(ups)):
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            output = functional.linear(states[tokens], *ups[expert])
            inner[expert] = tokens, output
            output = experts._apply_gate(output) if experts.has_gate else experts.act_fn(output)
            output = functional.linear(output, *downs[expert])
            outer[expert] = tokens, output
            if experts.has_post_expert_norm:
                output = experts.post_expert_norm(output)
            answer = answer.index_add(0, tokens, (output * shares[tokens, place, None]).to(answer.dtype))
        self._record(up, states, inner)
        self._record(down, states, outer)
        return answer


def _parts(one: ExpertWeight) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Each expert's weight, d_out × d_in, and bias. Parted at once, since a part's gradient is as large as all."""
    weights = one.weight.movedim(one.axis, 1).unbind()
    biases = [None] * len(weights) if one.bias is None else one.bias.unbind()
    return [*zip(weights, biases, strict=True)]
