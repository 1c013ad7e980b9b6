"""OSF: freeze each layer's largest singular directions before a task, and train in their orthogonal complement.

Nayak et al., "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning", 2025
(arXiv 2504.07097), by peft's OSF tuner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import LayerOptions

if TYPE_CHECKING:
    import torch
    from peft.tuners import osf
    from torch import nn

    from clkit.models import groups, layers
    from clkit.models.family import Family
else:
    torch, nn, osf = LazyModule("torch"), LazyModule("torch.nn"), LazyModule("peft.tuners.osf")
    groups, layers = LazyModule("clkit.models.groups"), LazyModule("clkit.models.layers")


class OSFOptions(LayerOptions):
    """Orthogonal subspace fine-tuning: each layer's largest singular directions are frozen, the rest is trained."""

    name: Literal["osf"] = Field(description="Orthogonal subspace fine-tuning.")
    first_task: Literal["unprotected", "protected"] = Field(
        "unprotected",
        description="Whether the first task is already kept from the pre-trained model's directions; `unprotected` "
        "trains all parameters.",
    )
    preserved: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of each layer's singular directions, largest first, frozen in the first protected task."
    )
    projection: Literal["update", "gradient"] = Field(
        "update",
        description="`update`: what AdamW makes of the projected gradient is projected too, so frozen directions do "
        "not move at all. `gradient`: only the gradient is, as peft does; AdamW leaks into frozen directions.",
    )
    growth: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Added to `preserved` with each further task; `preserved` and `growth` both 1/T share a model "
        "evenly among T tasks.",
    )

    def share(self, task_index: int) -> float | None:
        """The share of directions frozen while that task (from 0) is learned; None: it is not protected."""
        protected = task_index - (self.first_task == "unprotected")
        return self.preserved + self.growth * protected if protected >= 0 else None

    def contradictions(self, tasks: Sequence[str], unlabelled: Collection[str]) -> Iterator[str]:
        if (self.share(len(tasks) - 1) or 0.0) >= 1:
            yield (
                f"growth: {self.preserved:g} + {self.growth:g} per further task leaves nothing to train in task "
                f"{len(tasks)} ('{tasks[-1]}'); lower growth or preserved, or add no task to a run that has both"
            )


class OSF(Strategy):
    """W = U_high S_high V_highᵀ + U_low S_low V_lowᵀ, the first ⌊share · min(d_out, d_in)⌋ directions being `high`.

    U_low, S_low and V_low are trained, with U_low ⊥ U_high and V_low ⊥ V_high, so a task's change ΔW of the weight has
    U_highᵀ ΔW = 0 and ΔW V_high = 0: inputs along V_high give the output that they gave before, and the frozen triples
    (U_high, S_high, V_high) remain singular triples of W. After the task the trained weights are merged into the plain
    model, which the next task decomposes anew; there is no state.

    Departures from the paper. Its projected *gradient* does not keep the change orthogonal: AdamW rescales it element
    by element, which leaves the subspace (mini_trainer issue 90). `projection: update` keeps what the paper promises,
    `gradient` what its code does. As in peft, every layer has the same share, not one by its measured importance, and
    what is not decomposed (embeddings, norms, position biases, a tied head) is frozen in a protected task, but for a
    head that began untrained, which is trained whole: the new labels' rows have nothing to keep.

    The decomposition is computed on the CPU in float32, wherever the model lies: a resumed run starts from the CPU, and
    must find the same directions bit for bit. All of T5-large takes some minutes per task on one core.
    """

    name: ClassVar[str] = "osf"
    Options = OSFOptions
    tunings: ClassVar[frozenset[str]] = frozenset({"full"})
    conflicts: ClassVar[dict[str, str]] = {
        "ewc": "the parameters that OSF trains are made anew before each task, so none has an importance to keep",
        "migu": "OSF trains the factors of a weight, which has then no rows to choose from",
    }

    options: OSFOptions

    def __init__(self, options: OSFOptions) -> None:
        super().__init__(options)
        self._tuner: osf.OSFModel | None = None
        self._factors: list[nn.Parameter] = []
        self._trained: set[str] = set()
        self._preserved_share = 0.0

    def check(self, family: Family, tasks: int) -> None:
        share = self._first_share(tasks)
        if share is None:
            return
        decomposed = self._layers(family)
        if not decomposed:
            raise StrategyError(
                f"strategies.osf.layers: none of these layers is trained ({', '.join(self.options.layers)}); "
                "choose layers that tuning.freeze does not name"
            )
        owners = Counter(id(p) for module in family.model.modules() for p in module.parameters(recurse=False))
        for name, layer in decomposed.items():
            if owners[id(layer.weight)] > 1:
                raise StrategyError(
                    f"strategies.osf.layers: the weight of '{name}' is tied to another module's, which cannot follow "
                    "its decomposition; leave it out"
                )
            if int(min(layer.weight.shape) * share) < 1:
                raise StrategyError(
                    f"strategies.osf.preserved: {share:g} of the {min(layer.weight.shape)} directions of '{name}' is "
                    "less than one; raise it, or leave the layer out"
                )
        if not self.options.partial:
            found = groups.coverage(family, (layer.weight for layer in decomposed.values()))
            groups.refuse_partial(found, self.options.layers, "strategies.osf", "would be frozen")

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if self._first_share(tasks) is None:
            yield "no task follows the first, which is unprotected, so it changes nothing (first_task: protected)"
        else:
            found = groups.coverage(family, (layer.weight for layer in self._layers(family).values()))
            yield f"decomposes {found}; the rest is frozen in a protected task, but for a new head"

    def before_task(self, context: Context) -> None:
        share = self.options.share(context.task_index)
        if share is None:
            return
        model, device = context.model, context.model.device
        decomposed = self._layers(context.family)
        self._trained = set(layers.trained_parameters(model))
        model.to("cpu")
        target = "|".join(map(re.escape, decomposed))
        self._tuner = osf.OSFModel(model, osf.OSFConfig(target_modules=target, effective_rank=share), "default")
        model.to(device)
        whole = tuple(f"{part}." for part in context.family.trained_whole)
        for name, parameter in model.named_parameters():
            if name in self._trained and name.startswith(whole):
                parameter.requires_grad_(True)  # a head that began untrained: frozen, it would never learn new labels
        low = [model.get_submodule(f"{name}.osf_svd_params.default") for name in decomposed]
        self._factors = [cast("nn.ParameterDict", factors)[side] for factors in low for side in ("U_low", "V_low")]
        directions = [min(layer.weight.shape) for layer in decomposed.values()]
        self._preserved_share = sum(int(count * share) for count in directions) / sum(directions)

    def before_step(self, context: Context) -> None:
        if self._tuner is not None:
            context.log(osf_preserved_share=self._preserved_share)

    def after_step(self, context: Context) -> None:
        for factor in self._factors if self.options.projection == "update" else []:
            # peft projects every gradient of a factor. That of ½‖F‖² is F itself, so this is F projected.
            with torch.enable_grad():
                (projected,) = torch.autograd.grad(factor.square().sum() / 2, factor)
            with torch.no_grad():
                factor.copy_(projected)

    def after_task(self, context: Context) -> None:
        if self._tuner is not None:
            self._tuner.merge_and_unload()  # unload() would give back the weights from before the task
            for name, parameter in context.model.named_parameters():
                parameter.requires_grad_(name in self._trained)
            self._tuner, self._factors = None, []

    def memory(self, family: Family, tasks: int) -> int:
        """Bytes of the factors while a task is learned: the trained ones, their start, and what projects gradients."""
        share, kept = self._first_share(tasks) or 0.0, 0
        for layer in self._layers(family).values() if share else []:
            small, large = sorted(layer.weight.shape)
            high = int(small * share)
            stored = 2 * (small - high) * (small + large + 1) + (high * large if small != large else 0)
            kept += stored * layer.weight.element_size()
        return kept

    def _first_share(self, tasks: int) -> float | None:
        """The smallest share of directions that any of so many tasks freezes; None where none is protected."""
        return next(filter(None, map(self.options.share, range(tasks))), None)

    def _layers(self, family: Family) -> dict[str, nn.Linear]:
        found: dict[str, nn.Linear] = {}
        for name, layer in layers.select_layers(family, self.options.layers, "strategies.osf.layers").items():
            if not isinstance(layer, nn.Linear):
                raise StrategyError(
                    f"strategies.osf: '{name}' is a {type(layer).__name__}, which keeps its weight transposed and "
                    "which peft's OSF cannot decompose; use another strategy with this model"
                )
            if layer.weight.requires_grad:
                found[name] = layer
        return found
