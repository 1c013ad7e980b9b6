"""LoRA adapters, made, merged, saved and loaded by peft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from clkit.errors import ModelError
from clkit.models.layers import linear_layers
from clkit.recipe.section import did_you_mean
from clkit.recipe.sections import AdapterTuning

if TYPE_CHECKING:
    from clkit.models.loading import LoadedModel


def add_adapter(loaded: LoadedModel, tuning: AdapterTuning) -> PeftModel:
    """The model with a fresh LoRA adapter; everything but the adapter is frozen.

    Raises:
        ModelError: a target names no linear layer of the model.
    """
    targets = tuning.targets or list(loaded.family.lora_targets)
    endings = sorted({name.split(".")[-1] for name in linear_layers(loaded.model)})
    for target in targets:
        if target not in endings:
            raise ModelError(
                f"tuning.targets: '{target}' names no linear layer of this model{did_you_mean(target, endings)} "
                f"(linear layers found: {', '.join(endings)})"
            )
    config = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=targets, bias="none"
    )
    return get_peft_model(loaded.model, config)


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with an adapter that was saved before, ready to be trained further.

    Raises:
        ModelError: the folder holds no adapter that fits the model.
    """
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the adapter in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter's W + (α/r) · B A in its weights; the adapter is gone.

    So a sequence of adapters costs one matrix product per layer, however long it is.
    """
    merged: PreTrainedModel = model.merge_and_unload()
    return merged
