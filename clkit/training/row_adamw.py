"""AdamW that steps in single rows of a weight, where a strategy gives it the gradient of these alone."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
        work = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        work = [(parameter, group) for parameter, group in work if parameter in self._rows]
        if work:
            row_kernel()  # compiled by one thread, not by each
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(self._step_rows, *zip(*work, strict=True)))
        self._rows.clear()
        return loss

    @torch.no_grad()
    def _step_rows(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, chosen = self.state[parameter], self._rows[parameter]
        state.setdefault("step", torch.zeros((), dtype=torch.float32)).add_(1)
        beta1, beta2 = group["betas"]
        rows = given = places = torch.arange(len(chosen.rows))
        if chosen.others == "forgotten":
            _hold(state, chosen.rows, parameter)
            rows, lag, taken = chosen.rows, torch.ones(len(rows)).double(), state["steps"].double()
        else:
            if "exp_avg" not in state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["chosen"] = torch.zeros(len(parameter), dtype=torch.float32)
            if chosen.others == "stay":
                rows = chosen.rows
            else:
                rows = torch.arange(len(parameter))
                given = torch.full((len(parameter),), -1).index_copy_(0, chosen.rows, given)
            places = rows
            lag = (state["step"] - state["chosen"].index_select(0, rows)).double()
            taken = state["step"].double().expand(len(rows))
            state["chosen"].index_fill_(0, rows, float(state["step"]))
        kernel = row_kernel()
        kernel(
            RowStep(
                state=(parameter, state["exp_avg"], state["exp_avg_sq"]),
                rows=rows,
                places=places,
                gradients=chosen.grad.contiguous(),
                given=given,
                decay1=(beta1**lag).float(),
                decay2=(beta2**lag).float(),
                sizes=(group["lr"] / (1 - beta1**taken)).float(),
                scales=((1 - beta2**taken) ** -0.5).float(),
                by=(1 - beta1, 1 - beta2, 1 - group["lr"] * group["weight_decay"], group["eps"]),
            )
        )


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
