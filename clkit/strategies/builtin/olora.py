"""O-LoRA: each task's adapter learns in a subspace orthogonal to those of the earlier tasks.

Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", EMNLP 2023 Findings
(arXiv 2310.14152).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.section import Section
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions
from clkit.wording import did_you_mean

if TYPE_CHECKING:
    import torch
    from peft.tuners import lora
    from torch import nn
    from transformers import PreTrainedModel

    from clkit.models import layers
    from clkit.models.family import Family
else:
    torch, lora, layers = LazyModule("torch"), LazyModule("peft.tuners.lora"), LazyModule("clkit.models.layers")

Weight = Annotated[float, Field(ge=0)]


class OLoRATaskOptions(Section):
    """What O-LoRA does differently on one task."""

    lambda1: Weight | None = Field(None, description="λ1 on this task.")
    lambda2: Weight | None = Field(None, description="λ2 on this task.")


class OLoRAOptions(StrategyOptions):
    """Orthogonal LoRA: a new adapter pays for every overlap with the subspaces of earlier tasks' adapters."""

    name: Literal["olora"] = Field(description="Orthogonal LoRA.")
    lambda1: Weight = Field(
        0.5, description="λ1: weight of the overlap Σ|A_earlier · Aᵀ| with all earlier adapters; 0 turns it off."
    )
    lambda2: Weight = Field(0.0, description="λ2: weight of Σ‖·‖₂ over the new adapter's A and B; 0 turns it off.")
    per_task: dict[str, OLoRATaskOptions] = Field({}, description="Other λ1 or λ2 for single tasks, by name.")

    @property
    def asks_model(self) -> bool:
        return False  # only of experts, which carry no adapter unless they are named

    def contradictions(self, tasks: Sequence[str], unlabelled: Collection[str]) -> Iterator[str]:
        for name in self.per_task:
            if name not in tasks:
                yield f"per_task: no task named '{name}'{did_you_mean(name, tasks)} (tasks: {', '.join(tasks)})"

    def weights_in(self, task: str) -> tuple[float, float]:
        """λ1 and λ2 on that task."""
        own = self.per_task.get(task, OLoRATaskOptions())
        return (
            self.lambda1 if own.lambda1 is None else own.lambda1,
            self.lambda2 if own.lambda2 is None else own.lambda2,
        )


def adapter_matrices(model: PreTrainedModel) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """A (r × d_in) and B (d_out × r) of the adapter in training, by its layer's name in the base model."""
    return {
        name: (cast("nn.Parameter", module.lora_A[adapter].weight), cast("nn.Parameter", module.lora_B[adapter].weight))
        for name, module in layers.linear_layers(model).items()
        if isinstance(module, lora.LoraLayer)
        for adapter in module.active_adapters
    }


class OLoRA(Strategy):
    """loss + λ1 · Σ_layers Σ_{i<t} Σ|A_i · A_tᵀ| + λ2 · Σ_layers (‖A_t‖₂ + ‖B_t‖₂) for task t.

    As the released code computes it, once per optimizer step: Σ|·| is the sum of a matrix's absolute entries, and ‖·‖₂
    its Frobenius norm, not squared. Neither is divided by anything, so both grow with rank, layers and tasks.

    Earlier adapters act through the base weights, into which incremental LoRA merges them. Only their A's are kept,
    stacked to one (t − 1)·r × d_in matrix per layer, so that each layer costs one small matrix product per step.

    The log has both terms as they enter the loss, times λ: `olora_orthogonality` and `olora_norm`.
    """

    name: ClassVar[str] = "olora"
    Options = OLoRAOptions
    tunings: ClassVar[frozenset[str]] = frozenset({"incremental_lora"})

    options: OLoRAOptions

    def __init__(self, options: OLoRAOptions) -> None:
        super().__init__(options)
        self._earlier: dict[str, torch.Tensor] = {}
        self._adapter: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self._lambda1 = self._lambda2 = 0.0

    def check(self, family: Family, tasks: int) -> None:
        experts = layers.adapted_experts(family.base)
        if experts:
            raise StrategyError(
                f"strategies.olora: '{experts[0]}' carries an adapter whose A is one matrix for all experts, so two "
                "tasks' cannot be kept orthogonal in each; leave the experts out of tuning.targets"
            )

    def before_task(self, context: Context) -> None:
        self._lambda1, self._lambda2 = self.options.weights_in(context.task.name)
        self._adapter = adapter_matrices(context.model)
        if not self._adapter:
            raise StrategyError(
                "strategies.olora: no linear layer of the model carries a LoRA adapter; "
                "use tuning.method: incremental_lora, and name such layers in tuning.targets"
            )
        earlier = context.task_index
        expected = {layer: earlier * len(a) for layer, (a, _) in self._adapter.items()} if earlier else {}
        if {layer: len(kept) for layer, kept in self._earlier.items()} != expected:
            raise StrategyError(
                f"strategies.olora: the A matrices kept are not those of the {earlier} tasks learned before "
                f"'{context.task.name}', so these would not be protected; train anew with --overwrite"
            )

    def before_training(self, context: Context) -> None:
        if not self._lambda1 or not self._earlier:
            return
        with torch.no_grad():
            self._earlier = {layer: self._earlier[layer].to(a) for layer, (a, _) in self._adapter.items()}
            if not self._overlap():
                raise StrategyError(
                    f"strategies.olora: |A_earlier · Aᵀ| is exactly 0 on task '{context.task.name}', so an A is empty "
                    "and earlier tasks are not protected; train anew with --overwrite, or set lambda1: 0 for this task"
                )

    def penalty(self, context: Context) -> torch.Tensor | None:
        terms: dict[str, torch.Tensor] = {}
        if self._lambda1 and self._earlier:
            terms["olora_orthogonality"] = self._lambda1 * self._overlap()
        if self._lambda2:
            norms = [torch.linalg.vector_norm(matrix) for pair in self._adapter.values() for matrix in pair]
            terms["olora_norm"] = self._lambda2 * torch.stack(norms).sum()
        context.log(**terms)
        return torch.stack(list(terms.values())).sum() if terms else None

    def after_task(self, context: Context) -> None:
        with torch.no_grad():
            for layer, (a, _) in self._adapter.items():
                earlier = self._earlier.get(layer, a[:0])
                self._earlier[layer] = torch.cat([earlier.to(a), a])
        self._adapter = {}

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1:
            yield "there is no earlier task to be orthogonal to, so λ1 changes nothing"
        if not any(map(any, map(self.options.weights_in, ["", *self.options.per_task]))):
            yield "λ1 and λ2 are 0 on every task, so it changes nothing"

    def memory(self, family: Family, tasks: int) -> int:
        return tasks * sum(a.numel() * a.element_size() for a, _ in adapter_matrices(family.model).values())

    def kept(self) -> str:
        directions = max(map(len, self._earlier.values()), default=0)
        return f"{directions} directions of earlier adapters in each of {len(self._earlier)} layers"

    def state_dict(self) -> dict[str, Any]:
        return {f"A/{layer}": kept for layer, kept in self._earlier.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        unknown = sorted(name for name in state if not name.startswith("A/"))
        if unknown:
            raise KeyError(f"olora keeps A/<layer> only, but was given {unknown}")
        self._earlier = {name.removeprefix("A/"): kept for name, kept in state.items()}

    def _overlap(self) -> torch.Tensor:
        return torch.stack([(self._earlier[layer] @ a.T).abs().sum() for layer, (a, _) in self._adapter.items()]).sum()
