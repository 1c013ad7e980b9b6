"""Reads a model's weights: from safetensors only, and every one of them."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from clkit.errors import ModelError, first_line


def read_weights(auto_class: Any, name: str, **arguments: Any) -> PreTrainedModel:
    """The model of that name or folder, in float32.

    Transformers would draw at random what the files lack, and only warn.

    Args:
        auto_class: the `transformers` class that makes the model, such as `AutoModelForSeq2SeqLM`.

    Raises:
        ModelError: weights are damaged or missing, or have another shape than the model's.
        OSError: there are no weights in safetensors.
    """
    try:
        model, found = auto_class.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,  # a .bin file is a pickle, and reading one can run any code
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
    except SafetensorError as error:
        raise ModelError(f"its weights are damaged or cut short ({first_line(error)}); copy them again") from error
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"its weights do not fit its config.json ('{key}' is {list(stored)}, not {list(wanted)}); "
            "copy the whole model again"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"its weights are incomplete (no '{missing[0]}'{more}); copy the whole model again")
    loaded: PreTrainedModel = model
    return loaded
