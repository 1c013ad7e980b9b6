"""Loads a model with its tokenizer, from the hub, a folder, the package itself, or a saved stage of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from clkit.embedded import embedded_model_folder
from clkit.errors import ModelError
from clkit.models.adapters import add_adapter, load_adapter, merge_adapter
from clkit.models.family import Family, family_of
from clkit.models.groups import freeze
from clkit.recipe.sections import ModelSection, Tuning

EMBEDDED = "embedded:"


@dataclass
class LoadedModel:
    """A model ready to train or answer, the tokenizer it was made with, and the family it belongs to."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family


def load_model(section: ModelSection, tuning: Tuning, stages: Sequence[Path] = ()) -> LoadedModel:
    """The model of a recipe, tuned as it says; with ``stages``, as it was saved after the last of these tasks.

    Args:
        stages: the folders of the tasks learned so far, in order. Full tuning reads `model/` and one LoRA adapter reads
            `adapter/` of the last; incremental LoRA merges the adapters of all but the last into the model.

    Raises:
        ModelError: the model cannot be found or loaded, or belongs to no known family.
    """
    if tuning.method == "full":
        loaded = _load_base(str(stages[-1] / "model"), None) if stages else _load_base(section.name, section.revision)
        freeze(loaded.model, loaded.family, tuning.freeze)
        return loaded
    loaded = _load_base(section.name, section.revision)
    if not stages:
        loaded.model = add_adapter(loaded, tuning)
        return loaded
    for earlier in stages[:-1] if tuning.method == "incremental_lora" else []:
        loaded.model = merge_adapter(load_adapter(loaded.model, earlier / "adapter"))
    loaded.model = load_adapter(loaded.model, stages[-1] / "adapter")
    return loaded


def begin_task(loaded: LoadedModel, tuning: Tuning, index: int, seed: int) -> None:
    """Make the model ready for task ``index`` (from 0): with incremental LoRA, a fresh adapter on the merged model.

    Args:
        seed: of the fresh adapter's A; its B is zero, so the model answers as before.
    """
    if tuning.method == "incremental_lora" and index > 0:
        loaded.model = merge_adapter(cast(PeftModel, loaded.model))
        torch.manual_seed(seed)
        loaded.model = add_adapter(loaded, tuning)


def save_model(loaded: LoadedModel, stage: Path) -> None:
    """Write `model/` or, where adapters are trained, `adapter/` into a task's folder, as `load_model` reads it."""
    part = "adapter" if isinstance(loaded.model, PeftModel) else "model"
    loaded.model.save_pretrained(stage / part)
    loaded.tokenizer.save_pretrained(stage / part)


def _load_base(name: str, revision: str | None) -> LoadedModel:
    source = str(embedded_model_folder(name.removeprefix(EMBEDDED))) if name.startswith(EMBEDDED) else name
    if source.startswith("/") and not Path(source, "config.json").is_file():
        missing = "has no config.json" if Path(source).is_dir() else "does not exist"
        raise ModelError(f"model.name: the folder {source} {missing}; name a folder that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        family = family_of(config)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = family.load(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(_explain(name, error)) from error
    return LoadedModel(model, tokenizer, family)


def _explain(name: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"model.name: '{name}' cannot be loaded ({first_line}); without a network use a local folder, "
        "a model already in the hub's cache, or model.name=embedded:tiny-t5"
    )


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """What is trained, for the log: parameters in all, trainable parameters, family."""
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    return {
        "family": loaded.family.name,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "trainable": trainable,
    }
