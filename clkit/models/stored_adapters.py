"""Adapters as they lie in folders: what they hold, and how they become part of a model."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from clkit.errors import ModelError, first_line

#: Before the names of a model's parts in an adapter.
ROOT = "base_model.model."


def stored_weights(folder: Path) -> dict[str, list[int]]:
    """The shapes of the weights of a saved LoRA adapter, by name. peft would go on to look for a pickle, and online.

    Raises:
        ModelError: the folder holds none, or a damaged one.
    """
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        if not (folder / name).is_file():
            pickle = (folder / WEIGHTS_NAME).is_file() and name == SAFETENSORS_WEIGHTS_NAME
            reason = f"; {WEIGHTS_NAME} is a pickle, which can run any code, and is not read" if pickle else ""
            raise ModelError(f"the adapter in {folder} has no {name}{reason}")
    try:
        kind = json.loads((folder / CONFIG_NAME).read_text("utf-8"))["peft_type"]
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
            stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} is damaged ({first_line(error)})") from error
    if kind != "LORA":
        raise ModelError(f"the adapter in {folder} is of the kind {kind!r}; clkit saves and reads LORA only")
    return stored


def merged_from(model: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, set[str]]:
    """The model with a saved LoRA adapter merged into it, and the names of the weights that the adapter trained whole.

    A module that was trained whole and has another shape here, such as a head for other labels, is left out.

    Raises:
        ModelError: the folder holds no such adapter, or one that does not fit the model or cannot be merged.
    """
    stored_weights(folder)
    try:
        config = LoraConfig.from_pretrained(folder)
        tensors = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        trained = {f"{ROOT}{name}": name for name in config.modules_to_save or ()}
        fitting = {f"{ROOT}{name}": weight.shape for name, weight in model.state_dict().items()}
        whole = {key: trained[part] for key in tensors for part in trained if key.startswith(f"{part}.")}
        unfit = {part for key, part in whole.items() if fitting.get(key) != tensors[key].shape}
        used = {key: one for key, one in tensors.items() if whole.get(key) not in unfit}
        config.modules_to_save = [name for name in trained.values() if name not in unfit] or None
        wrapped = get_peft_model(model, config)
        set_peft_model_state_dict(wrapped, used)
    except Exception as error:  # no narrower: a damaged configuration can raise anything below peft
        raise ModelError(f"the adapter in {folder} cannot be loaded ({first_line(error)})") from error
    different = used.keys() ^ get_peft_model_state_dict(wrapped).keys()
    if different:
        raise ModelError(f"the adapter in {folder} does not fit the model: '{min(different)}' is in one of them only")
    refuse_tied_adapter(wrapped)
    merged: PreTrainedModel = wrapped.merge_and_unload().requires_grad_(True)  # which peft took from all of it
    return merged, {key.removeprefix(ROOT) for key in whole if key in used}


def refuse_tied_adapter(model: PeftModel) -> None:
    """Refuse to merge an adapter on a head that is the word embedding: every answer would change.

    Raises:
        ModelError: there is one.
    """
    embeddings = model.get_input_embeddings().weight
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, ParamWrapper):  # of fused experts
            continue
        if isinstance(layer, LoraLayer) and layer.get_base_layer().weight is embeddings:
            raise ModelError(
                f"the adapter on '{name}' cannot be merged, for the layer shares its weight with the word embeddings"
            )
