"""AdamW that steps in single rows of a weight, where a strategy gives it the gradient of these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import nn

from clkit.models.rows import RowGradient
from clkit.training.row_kernel import RowStep, row_kernel


class RowAdamW(torch.optim.AdamW):
    """Fused AdamW for parameters that have a gradient, and its step in chosen rows for those that have `RowGradient`s.

    A row that is left out keeps its weights, and its moments decay, as with a gradient of zero. That is done when the
    row is next chosen: with l the steps since its last one,

        m ← β1^l m + (1 − β1) g
        v ← β2^l v + (1 − β2) g²
        w ← (1 − lr λ) w − lr / (1 − β1^t) · m / (√v / √(1 − β2^t) + ε)

    which equals stepping with a whole gradient that is zero in the other rows, and putting those back afterwards. The
    state `chosen` of a weight tells the step at which each row was chosen last; the rest is AdamW's. Where the other
    rows do not stay (`RowGradient.others`), they are chosen as well, with g = 0.

    Where the other rows are forgotten, moments exist for the chosen rows alone. A row that is chosen in the next step
    too keeps its own; one that is not loses them and, chosen again, begins as in a new optimizer. With n its steps
    since it began, this one included, and m = v = 0 before the first,

        m ← β1 m + (1 − β1) g
        v ← β2 v + (1 − β2) g²
        w ← (1 − lr λ) w − lr / (1 − β1^n) · m / (√v / √(1 − β2^n) + ε)

    A weight's state then has the indices of its rows (`rows`) and n of each (`steps`).

    Args:
        rows: the gradients by parameter, each of float32 in whole rows on the CPU; a step takes them out.
    """

    def __init__(self, params: Any, rows: MutableMapping[nn.Parameter, RowGradient], **options: Any) -> None:
        super().__init__(params, **options)
        self._rows = rows

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = super().step(closure)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for group in self.param_groups:
                chosen = [(one, self._rows[one]) for one in group["params"] if one in self._rows]
                if chosen:
                    list(threads.map(row_kernel(), self._steps(group, chosen)))
        self._rows.clear()
        return loss

    def _steps(self, group: dict[str, Any], chosen: Sequence[tuple[nn.Parameter, RowGradient]]) -> Iterator[RowStep]:
        """Those of a group's weights; what stands in the exponents of all is computed in one go."""
        due = [self._due(weight, gradient) for weight, gradient in chosen]
        counts, (beta1, beta2) = [len(one.rows) for one in due], group["betas"]
        lag, taken = (torch.cat(found).double() for found in zip(*((one.lag, one.taken) for one in due), strict=True))
        by_row = beta1**lag, beta2**lag, group["lr"] / (1 - beta1**taken), (1 - beta2**taken) ** -0.5
        split = zip(*(torch.split(found.float(), counts) for found in by_row), strict=True)
        by = (1 - beta1, 1 - beta2, 1 - group["lr"] * group["weight_decay"], group["eps"])
        for (weight, gradient), one, own in zip(chosen, due, split, strict=True):
            state = self.state[weight]
            changed = weight.detach(), state["exp_avg"], state["exp_avg_sq"]
            decay1, decay2, sizes, scales = own
            gradients = gradient.grad.contiguous()
            yield RowStep(changed, one.rows, one.places, gradients, one.given, decay1, decay2, sizes, scales, by)

    def _due(self, weight: nn.Parameter, gradient: RowGradient) -> _Due:
        """What is due in a weight, whose state then tells that it is done."""
        state, count = self.state[weight], len(gradient.rows)
        state.setdefault("step", torch.zeros((), dtype=torch.float32)).add_(1)
        if gradient.others == "forgotten":
            _hold(state, gradient.rows, weight)
            return _Due(gradient.rows, torch.arange(count), torch.arange(count), torch.ones(count), state["steps"])
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["chosen"] = torch.zeros(len(weight), dtype=torch.float32)
        rows, given = gradient.rows, torch.arange(count)
        if gradient.others == "move":
            rows = torch.arange(len(weight))
            given = torch.full((len(weight),), -1).index_copy_(0, gradient.rows, given)
        lag = state["step"] - state["chosen"].index_select(0, rows)
        state["chosen"].index_fill_(0, rows, float(state["step"]))
        return _Due(rows, rows, given, lag, state["step"].expand(len(rows)))


class _Due(NamedTuple):
    """The rows of a weight that step: see `RowStep`; l of each, and t or n."""

    rows: torch.Tensor
    places: torch.Tensor
    given: torch.Tensor
    lag: torch.Tensor
    taken: torch.Tensor


def _hold(state: dict[str, Any], rows: torch.Tensor, parameter: nn.Parameter) -> None:
    """Make these the rows that the weight's state is of, and count a step of each."""
    # The indices are floats, since an optimizer's state becomes of its weight's type when it is loaded.
    before = state.get("rows", torch.zeros(0))
    state["rows"] = rows.to(torch.float32)
    if not torch.equal(before, state["rows"]):
        stay, came = torch.isin(before, state["rows"]), torch.isin(state["rows"], before)
        for name, shape in (("exp_avg", parameter.shape[1:]), ("exp_avg_sq", parameter.shape[1:]), ("steps", ())):
            new = torch.zeros(len(rows), *shape)
            if name in state:
                new[came] = state[name][stay]
            state[name] = new
    state["steps"] += 1
