"""Writes a model as stock `transformers` and `peft` read it: merged, or as one adapter on the model it began with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME, TaskType
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from clkit.errors import ModelError
from clkit.models.adapters import merge_adapter, save_configuration
from clkit.models.family import Family
from clkit.models.greedy import greedy_config
from clkit.models.sections import FROM_WEIGHTS
from clkit.models.stored_adapters import ROOT, refuse_tied_adapter
from clkit.models.tokenizers import save_tokenizer

#: An adapter as it is saved: its configuration and its weights by name.
Adapter = tuple[LoraConfig, Mapping[str, torch.Tensor]]

A, B = ".lora_A.weight", ".lora_B.weight"
#: What peft calls the task of a model, by the class of `transformers` that makes it.
TASK_TYPES = {
    "AutoModelForSeq2SeqLM": TaskType.SEQ_2_SEQ_LM,
    "AutoModelForCausalLM": TaskType.CAUSAL_LM,
    "AutoModelForSequenceClassification": TaskType.SEQ_CLS,
}


def save_merged(family: Family, folder: Path, max_new_tokens: int) -> None:
    """Write the model, its adapter merged into it, with tokenizer and, where it answers by text, generation config.

    Args:
        max_new_tokens: of an answer, unless its reader says otherwise.
    """
    if isinstance(family.model, PeftModel):
        refuse_tied_adapter(family.model)
        merge_adapter(family)
    if family.objective.kind == "text_to_text":
        family.model.generation_config = greedy_config(family, max_new_tokens)
    family.model.save_pretrained(folder)
    save_tokenizer(family.tokenizer, folder)


def save_summed(
    family: Family, earlier: Sequence[Path], folder: Path, max_new_tokens: int, revision: str | None
) -> int:
    """Write what was learned as one adapter, with tokenizer and, where it answers by text, generation config.

    Beside an adapter that trains a head the configuration of model and head is written, which names the labels.

    Args:
        family: with the last adapter.
        earlier: the folders of the adapters that are merged into its model, in order.
        max_new_tokens: of an answer, unless its reader says otherwise.
        revision: of the model that the first adapter is for, on the hub.

    Returns:
        The adapter's rank.

    Raises:
        ModelError: one of the adapters is of a kind that cannot be summed.
    """
    model = cast(PeftModel, family.model)
    stored = [(LoraConfig.from_pretrained(one), load_file(one / SAFETENSORS_WEIGHTS_NAME)) for one in earlier]
    config, tensors = summed([*stored, (model.peft_config["default"], get_peft_model_state_dict(model))])
    task_type = TASK_TYPES.get(family.auto_class.__name__)
    replace(
        config,
        base_model_name_or_path=(stored[0][0] if stored else config).base_model_name_or_path,
        revision=revision,
        task_type=task_type,
        auto_mapping=None if task_type else config.auto_mapping,
        inference_mode=True,
    ).save_pretrained(str(folder))
    save_file(
        {name: one.contiguous() for name, one in tensors.items()}, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"}
    )
    save_configuration(family, folder)
    if family.objective.kind == "text_to_text":
        greedy_config(family, max_new_tokens).save_pretrained(folder)
    save_tokenizer(family.tokenizer, folder)
    return int(config.r)


def summed(adapters: Sequence[Adapter]) -> Adapter:
    """One LoRA adapter that adds to every layer what these add together: Σ s_i B_i A_i, with s_i = α/r (rsLoRA: α/√r).

    The A_i stand below each other, the B_i beside each other, each times its s_i over the last one's, so that one
    adapter stays as it is to the bit. Where one of them leaves a layer alone or has a lower rank there, there are
    zeros: readers such as vLLM and llama.cpp know one rank and one α for all layers. What is trained whole is as the
    last one left it. An adapter of a kind that is no such sum stays as it is, where it is the only one.

    Raises:
        ModelError: one of them is of a kind that cannot be summed so.
    """
    for config, tensors in adapters:
        _refuse_taken_out(config)
        if _is_no_product(config, tensors):
            if len(adapters) == 1:
                return config, tensors
            raise ModelError(
                "an adapter with DoRA, biases, embeddings or fused experts cannot be summed with others; export the "
                "model merged, without --adapter"
            )
    configs = [config for config, _ in adapters]
    ranks = [max((len(one) for name, one in own.items() if name.endswith(A)), default=0) for _, own in adapters]
    last, rank = configs[-1], sum(ranks)
    scale = _scale(last, last.r)
    layers = dict.fromkeys(name.removesuffix(A) for _, tensors in adapters for name in tensors if name.endswith(A))
    result = {name: one for _, tensors in adapters for name, one in tensors.items() if not name.endswith((A, B))}
    for layer in layers:
        like_a, like_b = next((own[layer + A], own[layer + B]) for _, own in adapters if layer + A in own)
        downs, ups = [], []
        for (config, tensors), most in zip(adapters, ranks, strict=True):
            down = tensors.get(layer + A, like_a[:0])
            up = tensors.get(layer + B, like_b[:, :0])
            downs += [down, like_a.new_zeros(most - len(down), like_a.shape[1])]
            own = _scale(config, len(down), layer) / scale if len(down) else 1
            ups += [up * own, like_b.new_zeros(len(like_b), most - len(down))]
        result |= {layer + A: torch.cat(downs), layer + B: torch.cat(ups, dim=1)}
    whole = {name for config in configs for name in config.modules_to_save or ()}
    named = [config.target_modules for config in configs if isinstance(config.target_modules, set)]
    targets = set().union(*named) if len(named) == len(configs) else {layer.removeprefix(ROOT) for layer in layers}
    config = replace(
        last,
        r=rank,
        lora_alpha=scale * rank,
        rank_pattern={},
        alpha_pattern={},
        use_rslora=False,
        target_modules=targets,
        modules_to_save=sorted(whole) or None,
    )
    return config, result


def _scale(config: LoraConfig, rank: int, layer: str = "") -> float:
    """What B A is multiplied by, in a layer that may have an α of its own."""
    pattern = get_pattern_key(config.alpha_pattern, layer.removeprefix(ROOT))
    alpha = config.alpha_pattern.get(pattern, config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _is_no_product(config: LoraConfig, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether what the adapter adds is more than a product B A in each linear layer."""
    others = any(".lora_" in name and not name.endswith((A, B)) for name in tensors)
    return others or config.use_dora or config.bias != "none" or bool(config.target_parameters)


def _refuse_taken_out(config: LoraConfig) -> None:
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights.startswith(FROM_WEIGHTS):
        raise ModelError(
            f"an adapter with tuning.init: {config.init_lora_weights} fits only weights that it was taken out of; "
            "export the model merged, without --adapter"
        )
