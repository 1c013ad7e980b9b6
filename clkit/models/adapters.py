"""LoRA adapters, made, merged, saved and loaded by peft."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from clkit.errors import ModelError, first_line
from clkit.models.experts import ExpertWeight
from clkit.models.family import Family
from clkit.models.groups import BLOCKS, coverage
from clkit.models.layers import Layer, ranked_layers
from clkit.models.modalities import beside_text
from clkit.models.sections import FROM_WEIGHTS, AdapterTuning
from clkit.models.stored_adapters import stored_weights
from clkit.wording import did_you_mean


def add_adapter(family: Family, tuning: AdapterTuning) -> None:
    """Give the model a fresh LoRA adapter; everything but the adapter is frozen.

    Raises:
        ModelError: a target names no linear layer of the model, or one that incremental LoRA cannot merge; or a module
            that is to be trained whole cannot be.
    """
    model = family.model
    whole = tuple(f"{part}." for part in family.trained_whole)  # beside the adapter, and without one
    layers = {name: layer for name, layer in ranked_layers(model).items() if not f"{name}.".startswith(whole)}
    targets, carriers = _carriers(family, tuning, layers)
    experts = [name for name, layer in carriers.items() if isinstance(layer, ExpertWeight)]
    if experts:
        _check_experts(tuning, experts)
        targets = [name for name in carriers if name not in experts]
    # An adapter that is not taken out of the weights and never merged leaves them as they are.
    if tuning.method == "incremental_lora" or tuning.init in FROM_WEIGHTS:
        _refuse_tied(model, carriers)
    _check_whole(model, tuning.modules_to_save, carriers)
    without_numbers = model.device.type == "meta"
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=targets,
        target_parameters=experts or None,
        modules_to_save=[*family.trained_whole, *tuning.modules_to_save] or None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in carriers.values()),
        bias="none",
        use_rslora=tuning.use_rslora,
        use_dora=tuning.use_dora,
        init_lora_weights=True if tuning.init == "zero" or without_numbers else tuning.init,
    )
    family.model = get_peft_model(model, config)


def _carriers(family: Family, tuning: AdapterTuning, ranked: Mapping[str, Layer]) -> tuple[list[str], dict[str, Layer]]:
    """What peft is told of the layers that carry an adapter, and these by their names; among them weights of fused
    experts, where a target says so."""
    layers = {name: layer for name, layer in ranked.items() if isinstance(layer, nn.Module)}
    endings = sorted({name.split(".")[-1] for name in layers})
    found = f"(linear layers found: {', '.join(endings)})"
    if tuning.targets == "all-linear":
        head = family.model.get_output_embeddings()
        every: dict[str, Layer] = {name: layer for name, layer in layers.items() if layer is not head}
        return [*every], every
    targets = tuning.targets or next((list(some) for some in family.lora_targets if set(some) <= set(endings)), None)
    if targets is None:
        raise ModelError(
            "tuning.targets: the query and value projections of this model are not known; name the linear layers that "
            f"carry an adapter {found}"
        )
    outside = " outside its head" if family.trained_whole else ""
    chosen: dict[str, Layer] = {}
    for target in targets:
        pattern = _is_pattern(target)
        fitting = {
            name: layer
            for name, layer in (ranked if "experts" in target else layers).items()
            if (fnmatchcase(name, target) if pattern else f".{name}".endswith(f".{target}"))
        }
        if not fitting:
            raise ModelError(
                f"tuning.targets: '{target}' {'fits' if pattern else 'names'} no linear layer of this model{outside}"
                f"{did_you_mean(target, endings)} {found}"
            )
        if not pattern and "." not in target:
            _refuse_partial(family, list(fitting), layers)
        chosen |= fitting
    by_name = any(map(_is_pattern, targets)) or beside_text(family.base)
    return [*chosen] if by_name else targets, chosen


def _is_pattern(target: str) -> bool:
    return any(sign in target for sign in "*?[")


def _check_experts(tuning: AdapterTuning, experts: Sequence[str]) -> None:
    """Check that the weights of fused experts can carry such an adapter; peft adds B A to each expert's before use."""
    wrong = {
        "dropout: set it to 0": tuning.dropout > 0,
        "use_dora: set it to false": tuning.use_dora,
        "init: set it to zero or gaussian": tuning.init not in ("zero", "gaussian"),
    }
    for way in (way for way, is_wrong in wrong.items() if is_wrong):
        key, _, advice = way.partition(": ")
        raise ModelError(
            f"tuning.{key}: '{experts[0]}' holds fused experts, whose adapters have none but the plain form; {advice}, "
            "or leave the experts out of tuning.targets"
        )


def _check_whole(model: PreTrainedModel, names: Sequence[str], carriers: Iterable[str]) -> None:
    """Check the modules that are to be trained whole beside the adapter."""
    modules = {name: module for name, module in model.named_modules() if name and [*module.parameters()]}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    for whole in names:
        fitting = [name for name in modules if f".{name}".endswith(f".{whole}")]
        if not fitting:
            near = did_you_mean(whole, sorted({name.split(".")[-1] for name in modules}))
            raise ModelError(f"tuning.modules_to_save: '{whole}' names no part of this model that has weights{near}")
        for name in fitting:
            inside = [*modules[name].modules()]
            if tied and any(part is embeddings or part is head for part in inside):
                raise ModelError(
                    f"tuning.modules_to_save: '{name}' shares its weight with "
                    f"{'the output layer' if embeddings in inside else 'the word embeddings'}, so a copy of its own "
                    "cannot be trained; leave it out"
                )
            carrier = next((one for one in carriers if f"{one}.".startswith(f"{name}.")), None)
            if carrier is not None:
                raise ModelError(
                    f"tuning.modules_to_save: '{name}' is to be trained whole, and '{carrier}' to carry an adapter; "
                    "leave one of them out"
                )


def _refuse_partial(family: Family, fitting: Sequence[str], layers: Mapping[str, nn.Module]) -> None:
    """Refuse a target that fits single layers beside fused experts, unless its owner is written too (`shared.up`)."""
    linear = coverage(family, (cast(torch.Tensor, layer.weight) for layer in layers.values()))
    for role in BLOCKS:
        fused, _ = linear.left_out([role])
        if fused and any(re.search(family.roles[role], name) for name in fitting):
            owner, _, target = fitting[0].rpartition(".")
            raise ModelError(
                f"tuning.targets: '{target}' fits linear layers such as '{fitting[0]}', but not '{fused[0]}', which "
                f"must be named; to leave such parts of the {role} as they are, write the layer's owner too: "
                f"'{owner.rpartition('.')[2]}.{target}'"
            )


def _refuse_tied(model: PreTrainedModel, carriers: Mapping[str, Layer]) -> None:
    # Merged into a head, an adapter would change the word embeddings that share its weight, and so every answer.
    embeddings = model.get_input_embeddings().weight
    for name, layer in carriers.items():
        if layer.weight is embeddings:
            ending = name.split(".")[-1]
            raise ModelError(
                f"tuning.targets: '{ending}' shares its weight with the word embeddings, so earlier tasks' adapters "
                "cannot be merged into it; leave it out, or use tuning.method: lora"
            )


def load_adapter(family: Family, folder: Path) -> None:
    """Give the model a LoRA adapter that was saved before as safetensors, ready to be trained further.

    Raises:
        ModelError: the folder holds no such adapter, or one that does not fit the model.
    """
    stored = stored_weights(folder)
    family.make_room(stored)
    try:
        loaded = PeftModel.from_pretrained(family.model, folder, is_trainable=True)
    except Exception as error:  # no narrower: a damaged configuration can raise anything below peft
        raise ModelError(f"the adapter in {folder} cannot be loaded ({first_line(error)})") from error
    different = stored.keys() ^ get_peft_model_state_dict(loaded).keys()
    if different:  # peft would keep random values for what is missing, and only warn
        raise ModelError(f"the adapter in {folder} does not fit the model: '{min(different)}' is in one of them only")
    family.model = loaded


def save_configuration(family: Family, folder: Path) -> None:
    """Write the model's configuration beside an adapter that trains a head, of which the model's own does not know."""
    if family.trained_whole:
        family.base.config.architectures = [type(family.base).__name__]
        family.base.config.save_pretrained(folder)


def merge_adapter(family: Family) -> None:
    """Make the adapter's W + (α/r) · B A the weights of the base model; the adapter is gone.

    So a sequence of adapters costs one matrix product per layer, however long it is. Merged on the CPU, where saved
    stages are merged too: an accelerator rounds differently, and a resumed run would start from other weights.
    """
    # peft's unload() would throw the adapter away
    family.model = cast(PeftModel, family.model).cpu().merge_and_unload()
