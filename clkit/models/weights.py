"""Reads a model's weights: from safetensors only, and every one of them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel


def read_weights(auto_class: Any, name: str, **arguments: Any) -> PreTrainedModel:
    """The model of that name or folder, in float32.

    Transformers would draw at random what the files lack, and only warn.

    Args:
        auto_class: the `transformers` class that makes the model, such as `AutoModelForSeq2SeqLM`.

    Raises:
        ValueError: weights are missing, or have another shape than the model's.
        OSError: there are no weights in safetensors.
        SafetensorError: they are damaged.
    """
    model, found = auto_class.from_pretrained(
        name,
        dtype=torch.float32,
        use_safetensors=True,  # a .bin file is a pickle, and reading one can run any code
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **arguments,
    )
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        raise ValueError(f"its weights do not fit its config.json: '{key}' is {list(stored)}, not {list(wanted)}")
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"its weights are incomplete: no '{missing[0]}'{more}")
    loaded: PreTrainedModel = model
    return loaded
