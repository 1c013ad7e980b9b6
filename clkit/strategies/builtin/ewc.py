"""Elastic weight consolidation: hold each parameter near its old value, the harder the more old tasks depend on it.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796); the online
form: Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from clkit.models import layers
    from clkit.models.family import Family
    from clkit.strategies import fisher as importance
else:
    torch, layers = LazyModule("torch"), LazyModule("clkit.models.layers")
    importance = LazyModule("clkit.strategies.fisher")


class EWCOptions(StrategyOptions):
    """Elastic weight consolidation: a quadratic penalty on moving parameters that finished tasks depend on."""

    name: Literal["ewc"] = Field(description="Elastic weight consolidation.")
    ewc_lambda: Annotated[float, Field(gt=0)] = Field(
        5000.0,
        description="λ of the penalty λ/2 · Σ_i F_i (θ_i − θ*_i)², added to the loss once per optimizer step; F_i is "
        "the mean over examples of (∂ log p(answer | prompt) / ∂θ_i)², log p summed over the answer's tokens.",
    )
    fisher: Literal["online", "per_task"] = Field(
        "online",
        description="`online`: one running Fisher F ← decay · F + F_task, centred at the latest weights; `per_task`: a "
        "Fisher and a centre for every finished task, whose penalties are summed.",
    )
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        1.0, description="Factor γ on the running Fisher at the end of each task, with `fisher: online`."
    )
    examples: Annotated[int, Field(ge=1)] | None = Field(
        200,
        description="Examples of each task that its Fisher is estimated from, drawn at random; null takes all of them.",
    )
    labels: Literal["data", "model"] = Field(
        "data",
        description="`data`: the gold answers (empirical Fisher); `model`: answers whose tokens are drawn from the "
        "model's own distribution given the gold tokens before them (the Fisher information in expectation).",
    )
    device: Literal["model", "cpu"] = Field(
        "model",
        description="Where Fisher and centres are kept: on the model's device, or in main memory (`cpu`), from where "
        "each parameter's are copied in every step.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_decay_gives_way(cls, value: Any) -> Any:
        # Only the default does: a `decay` that is written beside `per_task` is a contradiction.
        if isinstance(value, Mapping) and value.get("fisher") == "per_task":
            return {"decay": None, **value}
        return value

    @model_validator(mode="after")
    def _decay_is_of_the_running_fisher(self) -> EWCOptions:
        if self.fisher == "per_task" and self.decay is not None:
            raise ValueError("decay: remove it; with fisher: per_task no Fisher decays")
        if self.fisher == "online" and self.decay is None:
            raise ValueError("decay: null leaves open how the running Fisher decays; give 1.0 to keep all of it")
        return self


class EWC(Strategy):
    """loss + λ/2 · Σ_i F_i (θ_i − θ*_i)² (Kirkpatrick et al. eq. 3), once per optimizer step, from the second task on.

    F_i = 1/N · Σ_n (∂ log p(answer_n | prompt_n) / ∂θ_i)² over N examples of a finished task, at the weights that it
    ended with, without dropout and without the penalty. log p is summed over the answer's tokens, and each example's
    gradient is squared by itself: squares of a batch's mean gradient would be too small, and depend on the batch size.

    ``fisher: online`` (the default) keeps one Fisher, F ← γ F + F_task, around the latest weights (Schwarz et al.
    eq. 9), in twice the memory of the trained parameters however long the sequence is; ``per_task`` is the sum over
    tasks of Kirkpatrick et al. On a CPU the penalty's gradient takes that memory half as much again during training.

    The task's loss is a mean over tokens, so the Bayesian λ would be N_old / (N_new · tokens of an answer): near 1 for
    tasks of one size. The scores of learned answers are close to 0, however, and λ in use is larger by orders of
    magnitude. On the quickstart, 10² still forgets and 10⁵ learns new tasks badly; from 10³ to 10⁴, between which the
    default lies, it does neither.

    With LoRA, the adapter's parameters have a Fisher and are held. With MIGU, the mask falls on the gradient of loss
    and penalty together, since the penalty's is added first.
    """

    name: ClassVar[str] = "ewc"
    Options = EWCOptions
    # Incremental LoRA trains fresh parameters on every task: there is no old value to hold them near.
    tunings: ClassVar[frozenset[str]] = frozenset({"full", "lora"})

    options: EWCOptions

    def __init__(self, options: EWCOptions) -> None:
        super().__init__(options)
        self._anchors: list[importance.Anchor] = []
        self._parameters: dict[str, nn.Parameter] = {}
        self._gradients: dict[str, torch.Tensor] = {}

    def before_training(self, context: Context) -> None:
        if context.task_index > 0:
            self._parameters = self._protected(context)
            grown = [anchor.grown(self._parameters) for anchor in self._anchors]
            self._anchors = [anchor.to(self._device(context)) for anchor in grown]

    def penalty(self, context: Context) -> torch.Tensor | None:
        if not self._parameters:
            return None
        pairs = [[(anchor.fisher[name], anchor.center[name]) for anchor in self._anchors] for name in self._parameters]
        gradients = [self._gradient(name, parameter) for name, parameter in self._parameters.items()]
        penalty: torch.Tensor = importance.QuadraticPenalty.apply(  # type: ignore[no-untyped-call]
            self.options.ewc_lambda, pairs, gradients, *self._parameters.values()
        )
        return penalty

    def after_task(self, context: Context) -> None:
        self._parameters, self._gradients = {}, {}
        parameters = layers.trained_parameters(context.model)
        fisher = importance.estimate(context, parameters, self.options.examples, self.options.labels)
        center = {name: parameter.detach().to(fisher[name], copy=True) for name, parameter in parameters.items()}
        if self.options.fisher == "online":
            for earlier in self._anchors:
                for name, own in fisher.items():
                    own.add_(earlier.fisher[name].to(own), alpha=cast(float, self.options.decay))
            self._anchors.clear()
        self._anchors.append(importance.Anchor(fisher, center).to(self._device(context)))

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1:
            yield "there is no earlier task to protect, so it changes nothing"

    def memory(self, family: Family, tasks: int) -> int:
        parameters = layers.trained_parameters(family.model).values()
        once = 2 * sum(parameter.numel() for parameter in parameters) * importance.precision_of(parameters).itemsize
        return once * (tasks if self.options.fisher == "per_task" else min(tasks, 1))

    def state_dict(self) -> dict[str, Any]:
        """`fisher/<parameter>` and `center/<parameter>`; per task, its number from 1 stands before the parameter."""
        return {
            f"{part}/{self._number(index)}{name}": tensor
            for index, anchor in enumerate(self._anchors)
            for part, tensors in (("fisher", anchor.fisher), ("center", anchor.center))
            for name, tensor in tensors.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept: dict[int, importance.Anchor] = {}
        for key, tensor in state.items():
            found = re.fullmatch(r"(fisher|center)/(?:(\d+)/)?([^/]+)", key)
            if found is None or (found[2] is not None) is not (self.options.fisher == "per_task"):
                raise KeyError(f"ewc with fisher: {self.options.fisher} does not keep '{key}'")
            anchor = kept.setdefault(int(found[2] or 1), importance.Anchor({}, {}))
            (anchor.fisher if found[1] == "fisher" else anchor.center)[found[3]] = tensor
        whole = all(anchor.fisher.keys() == anchor.center.keys() for anchor in kept.values())
        if not whole or sorted(kept) != list(range(1, len(kept) + 1)):
            raise KeyError("ewc keeps a Fisher and a centre of every parameter, and some of them are missing")
        self._anchors = [kept[number] for number in sorted(kept)]

    def _number(self, index: int) -> str:
        return f"{index + 1}/" if self.options.fisher == "per_task" else ""

    def _device(self, context: Context) -> torch.device:
        return torch.device("cpu") if self.options.device == "cpu" else context.model.device

    def _protected(self, context: Context) -> dict[str, nn.Parameter]:
        parameters = layers.trained_parameters(context.model)
        expected = context.task_index if self.options.fisher == "per_task" else 1
        fitting = [anchor for anchor in self._anchors if anchor.fisher.keys() == parameters.keys()]
        if not len(fitting) == len(self._anchors) == expected:
            raise StrategyError(
                f"strategies.ewc: the Fisher information kept is not that of the {context.task_index} tasks learned "
                f"before '{context.task.name}', so they would not be protected; train anew with --overwrite"
            )
        return parameters

    def _gradient(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """Memory for the penalty's gradient; kept between steps on a CPU, where getting it costs more than the sums."""
        kept = self._gradients.get(name)
        taken = kept is not None and parameter.grad is not None and parameter.grad.data_ptr() == kept.data_ptr()
        if kept is None or taken:  # `taken`: it was handed out as `.grad` itself, and is still in use
            kept = torch.empty_like(parameter, memory_format=torch.contiguous_format, requires_grad=False)
        if parameter.device.type == "cpu":
            self._gradients[name] = kept
        return kept
