"""Loads a model with its tokenizer, from the hub, a folder, the package itself, or a saved stage of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from clkit.embedded import embedded_model_folder
from clkit.errors import ModelError
from clkit.models.adapters import add_adapter, load_adapter
from clkit.models.family import Family, family_of
from clkit.recipe.sections import ModelSection, Tuning

EMBEDDED = "embedded:"


@dataclass
class LoadedModel:
    """A model ready to train or answer, the tokenizer it was made with, and the family it belongs to."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family


def load_model(section: ModelSection, tuning: Tuning, stage: Path | None = None) -> LoadedModel:
    """The model of a recipe, tuned as it says; with ``stage``, as it was saved after a task of a run.

    Args:
        stage: a task's folder in a run: holds `model/` (full tuning) or `adapter/`.

    Raises:
        ModelError: the model cannot be found or loaded, or belongs to no known family.
    """
    saved_model = stage / "model" if stage is not None and tuning.method == "full" else None
    base = _load_base(str(saved_model) if saved_model else section.name, None if saved_model else section.revision)
    if tuning.method != "full":
        base.model = load_adapter(base.model, stage / "adapter") if stage else add_adapter(base, tuning)
    return base


def save_model(loaded: LoadedModel, stage: Path) -> None:
    """Write `model/` or, where adapters are trained, `adapter/` into a task's folder, as `load_model` reads it."""
    from peft import PeftModel

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
