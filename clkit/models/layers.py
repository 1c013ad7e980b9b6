"""What of a model is in training, and its linear layers: which there are, and which role each plays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from clkit.errors import ModelError, first_line
from clkit.models.experts import ExpertWeight, expert_weights
from clkit.models.family import Family
from clkit.models.modalities import beside_text

#: Where peft keeps what a module was that it trains whole (`modules_to_save`); no forward pass goes through it.
UNUSED_COPY = "original_module"
#: What has rows that are ranked by what they put out.
Layer = nn.Module | ExpertWeight
_Kind = TypeVar("_Kind", bound=Layer)


@dataclass(frozen=True)
class RowSite:
    """A weight whose rows are chosen by magnitude, and the module whose output gives the magnitudes.

    Row i of ``weight`` (d_out × d_in) produces element i of the last dimension of ``module``'s output. GPT-2 and its
    relatives keep the weight transposed (`Conv1D`: d_in × d_out): ``axis`` is the dimension of d_out. Fused experts
    have such a weight each, in one tensor. ``bias`` is added to the same output, where there is one and it is trained.
    ``layer`` is the name of the linear layer in the base model; ``name`` also says which matrix of an adapter.
    """

    name: str
    layer: str
    module: Layer
    weight: nn.Parameter
    axis: int = 0
    bias: nn.Parameter | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a score for each row: d_out, or E × d_out; rows are chosen from each d_out."""
        return tuple(self.by_row(self.weight).shape[:-1])

    @property
    def rows(self) -> int:
        """The number of rows that are chosen from, of all experts together."""
        return math.prod(self.shape)

    def by_row(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view of a tensor in the weight's shape, in which each row of the weight is the last dimension."""
        return tensor.movedim(self.axis, -2)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in training, by name; tied ones appear once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def refuse_untrainable(family: Family) -> None:
    """Make sure that the model can be trained on texts of unequal length; some take whole chunks only.

    Raises:
        ModelError: it cannot.
    """
    batch = {name: tensor for name, tensor in family.probe().items() if name != "labels"}
    drawn = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    try:
        with evaluation_mode(family.model), drawn, torch.no_grad():
            family.model.train()(**batch)
    except Exception as error:  # no narrower: a model's own code can raise anything
        kind = f"this {family.name} model '{family.base.config.model_type}'"
        raise ModelError(f"{kind} cannot be trained on two short texts ({first_line(error)}); use another") from error


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off; afterwards every module is back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def embeds_by_its_layer(family: Family) -> bool:
    """Whether the forward pass goes through the model's embedding layer, not through another with its weight (T5)."""
    reached = []
    layer = family.base.get_input_embeddings()
    hook = layer.register_forward_hook(lambda *_: reached.append(True))
    # Without the mask, at whose numbers some models look: without weights there are none.
    batch = {name: tensor for name, tensor in family.probe().items() if name != "attention_mask"}
    try:
        with evaluation_mode(family.model), torch.no_grad():
            family.model(**batch)
    finally:
        hook.remove()
    return bool(reached)


def linear_layers(model: PreTrainedModel | PeftModel) -> dict[str, nn.Module]:
    """Every linear layer by its name in the base model; one that carries an adapter stands for base and adapter."""
    return {name: layer for name, layer in ranked_layers(model).items() if isinstance(layer, nn.Module)}


def ranked_layers(model: PreTrainedModel | PeftModel) -> dict[str, Layer]:
    """`linear_layers` and the weights of fused experts, but for those that carry an adapter (`adapted_experts`)."""
    base = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    found: dict[str, Layer] = {}
    passed = [*adapted_experts(base), *beside_text(base)]
    for name, module in base.named_modules():
        inside = any(f"{name}.".startswith(f"{other}.") for other in [*found, *passed])
        if inside or UNUSED_COPY in name.split("."):
            continue
        if isinstance(module, nn.Linear | Conv1D | BaseTunerLayer):
            found[name] = module
        else:
            found |= {f"{name}.{weight.name}": weight for weight in expert_weights(module)}
    return found


def adapted_experts(base: nn.Module) -> list[str]:
    """Names of modules of fused experts whose weights carry an adapter: it changes them, and has no output to rank."""
    names = (name for name, module in base.named_modules() if isinstance(module, ParamWrapper))
    return [name for name in names if not name.endswith(".base_layer")]


def select_layers(family: Family, layers: Sequence[str], key: str = "layers") -> dict[str, nn.Module]:
    """The linear layers that a recipe's `layers:` names.

    Each entry is a role (`attention`, `feed_forward`, `lm_head`), the last part of a layer's name (`q`, `wo`), or a
    pattern over the full name (`decoder.*.wi_0`).

    Args:
        key: where the entries stand, for the message.

    Raises:
        ModelError: an entry fits no linear layer; the message names the layers that were found.
    """
    return _selected(family, linear_layers(family.model), layers, key)


def select_ranked(family: Family, layers: Sequence[str], key: str) -> dict[str, Layer]:
    """`select_layers`, among the weights of fused experts too."""
    return _selected(family, ranked_layers(family.model), layers, key)


def _selected(family: Family, known: Mapping[str, _Kind], layers: Sequence[str], key: str) -> dict[str, _Kind]:
    chosen: dict[str, _Kind] = {}
    for entry in layers:
        role = family.roles.get(entry)
        fitting = {
            name: module
            for name, module in known.items()
            if (re.search(role, name) if role else name.split(".")[-1] == entry or fnmatchcase(name, entry))
        }
        if not fitting:
            endings = sorted({name.split(".")[-1] for name in known})
            if role:
                names = (name for name, _ in family.base.named_parameters())
                other = next((f" ('{name}' is none)" for name in names if re.search(role, name.rpartition(".")[0])), "")
                raise ModelError(
                    f"{key}: no linear layer of this model is recognised as '{entry}'{other}; name in `layers:` those "
                    f"that you mean (linear layers found: {', '.join(endings)})"
                )
            raise ModelError(
                f"{key}: '{entry}' fits no linear layer of this model; roles: {', '.join(family.roles)}; "
                f"linear layers found: {', '.join(endings)}"
            )
        chosen.update(fitting)
    return {name: module for name, module in known.items() if name in chosen}  # in the model's own order


def row_sites(layers: Mapping[str, Layer]) -> list[RowSite]:
    """The trained weights of these layers with the module whose output ranks their rows (paper section 3.2).

    A plain linear layer: its weight, by its own output. A LoRA layer: A by its own output x Aᵀ, and B by the whole
    layer's output x Wᵀ + (α/r) x Aᵀ Bᵀ. Fused experts: each one's rows by its output for the tokens sent to it.
    Weights that are not trained are left out.
    """
    sites: list[RowSite] = []
    for name, module in layers.items():
        if isinstance(module, LoraLayer):
            for adapter in module.active_adapters:
                a, b = module.lora_A[adapter], module.lora_B[adapter]
                sites.append(RowSite(f"{name}.lora_A", name, a, cast(nn.Parameter, a.weight)))
                sites.append(RowSite(f"{name}.lora_B", name, cast(nn.Module, module), cast(nn.Parameter, b.weight)))
        elif isinstance(module, nn.Linear | Conv1D):
            axis = 1 if isinstance(module, Conv1D) else 0
            sites.append(RowSite(name, name, module, cast(nn.Parameter, module.weight), axis, _trained(module.bias)))
        elif isinstance(module, ExpertWeight):
            sites.append(RowSite(name, name, module, module.weight, module.axis, _trained(module.bias)))
    return [site for site in sites if site.weight.requires_grad]


def _trained(bias: nn.Parameter | None) -> nn.Parameter | None:
    return bias if bias is not None and bias.requires_grad else None
