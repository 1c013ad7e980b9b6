"""Loads a model with its tokenizer, from the hub, a folder, the package itself, or a saved stage of a run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from clkit.errors import ModelError, first_line
from clkit.models.adapters import add_adapter, load_adapter, merge_adapter
from clkit.models.embedded import embedded_model_folder
from clkit.models.family import Family, Generating, LabelsOfTasks
from clkit.models.folders import PACKAGE, chosen_gguf, package_folder, require_gguf
from clkit.models.groups import freeze
from clkit.models.objective import Objective, TextToText
from clkit.models.registry import family_of
from clkit.models.sections import ModelSection, Tuning
from clkit.redaction import redact

EMBEDDED = "embedded:"
#: Bytes at whose multiples torch allocates.
ALIGNMENT = 64
JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
#: A tokenizer's own files, of which a model's folder has one or more.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "vocab.txt")


@dataclass
class LoadedModel:
    """A model ready to train or answer, the tokenizer it was made with, and the family it belongs to."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family


def load_model(
    section: ModelSection,
    tuning: Tuning,
    stages: Sequence[Path] = (),
    objective: Objective | None = None,
    labels: LabelsOfTasks | None = None,
) -> LoadedModel:
    """The model of a recipe, tuned as it says; with ``stages``, as it was saved after the last of these tasks.

    Args:
        stages: the folders of the tasks learned so far, in order. Full tuning reads `model/` and one LoRA adapter reads
            `adapter/` of the last; incremental LoRA merges the adapters of all but the last into the model.
        objective: what the model is for; text to text where None.
        labels: of all tasks of the sequence, which classification needs.

    Raises:
        ModelError: the model cannot be found or loaded, or belongs to no known family.
    """
    use = _Use(objective or TextToText(), labels)
    if tuning.method == "full":
        loaded = _load_base(section, use, stages[-1] if stages else None)
        freeze(loaded.model, loaded.family, tuning.freeze)
        return loaded
    loaded = _load_base(section, use)
    if not stages:
        loaded.model = add_adapter(loaded.model, loaded.family, tuning)
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
        loaded.model = add_adapter(loaded.model, loaded.family, tuning)


def save_model(loaded: LoadedModel, stage: Path) -> None:
    """Write `model/` or, where adapters are trained, `adapter/` into a task's folder, as `load_model` reads it."""
    part = "adapter" if isinstance(loaded.model, PeftModel) else "model"
    loaded.model.save_pretrained(stage / part)
    loaded.tokenizer.save_pretrained(stage / part)


@dataclass(frozen=True)
class _Origin:
    """Where a model comes from, and how an error names it."""

    source: str
    subject: str
    advice: str

    @classmethod
    def of(cls, section: ModelSection, stage: Path | None) -> _Origin:
        """The recipe's model, or the one that was saved in a stage's folder."""
        if stage is not None:
            folder = stage.resolve() / "model"
            return cls(str(folder), f"the saved model in {folder}", "train anew with --overwrite")
        name = section.name
        try:
            if name.startswith(EMBEDDED):
                folder = embedded_model_folder(name.removeprefix(EMBEDDED))
                return cls(str(folder), f"model.name: '{name}'", "install clkit again")
            if name.startswith(PACKAGE):
                folder = package_folder(name.removeprefix(PACKAGE))
                return cls(str(folder), f"model.name: '{name}'", "install the package again")
        except ModelError as error:
            raise ModelError(f"model.name: {error}") from None
        if Path(name).is_absolute():
            return cls(name, f"model.name: the folder {name}", "name a folder that save_pretrained wrote")
        advice = (
            "without a network use a local folder, a model already in the hub's cache, or model.name=embedded:tiny-t5"
        )
        return cls(name, f"model.name: '{name}'", advice)

    @property
    def folder(self) -> Path | None:
        """The local folder, where it is one."""
        return Path(self.source) if Path(self.source).is_absolute() else None


@dataclass(frozen=True)
class _Use:
    """What a model is loaded for."""

    objective: Objective
    labels: LabelsOfTasks | None


def _load_base(section: ModelSection, use: _Use, stage: Path | None = None) -> LoadedModel:
    origin = _Origin.of(section, stage)
    gguf = _gguf_file(section, origin) if stage is None else None
    if origin.folder is not None and gguf is None:
        _check_folder(origin, origin.folder)
    if section.trust_remote_code:
        _warn_of_code(section.name)
    revision = section.revision if stage is None else None
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": section.trust_remote_code}
    if gguf is not None:
        arguments["gguf_file"] = gguf
    try:
        config = AutoConfig.from_pretrained(origin.source, **arguments)
        family = family_of(config, use.objective, use.labels)
        if origin.folder is not None and gguf is None:
            _check_tokenizer(origin.folder)
        tokenizer = AutoTokenizer.from_pretrained(origin.source, **arguments)
        if gguf is not None:  # to read the configuration once more would take seconds; packed weights cannot be trained
            arguments |= {"config": config, "quantization_config": GgufConfig(dequantize=True)}
        model = family.load(origin.source, **arguments)
        _check_vocabulary(tokenizer, model)
        _refuse_broken(model)
        if isinstance(family, Generating) and tokenizer.eos_token_id is None:
            raise ModelError("its tokenizer has no end-of-sequence token (eos_token), so no answer would ever end")
    except ModelError as error:
        raise ModelError(f"{origin.subject}: {error}") from error
    except Exception as error:  # no narrower: hub, configuration, tokenizer and weights share no base class
        raise ModelError(_explain(origin, revision, error)) from error
    align(model)
    return LoadedModel(model, tokenizer, family)


def _gguf_file(section: ModelSection, origin: _Origin) -> str | None:
    """The GGUF file that holds the recipe's model, in its folder or on the hub; None where it is in safetensors."""
    if origin.folder is not None:
        return chosen_gguf(origin.folder, section.gguf_file)
    if section.gguf_file is not None:
        require_gguf()
    return section.gguf_file


def align(model: torch.nn.Module) -> None:
    """Move parameters to where the allocator puts them, if they lie elsewhere.

    A loaded parameter lies in the file's mapped memory, at an address that hangs on the length of the file's header. On
    a CPU the last bit of a matrix product can hang on that address, so without this a model that was saved and loaded
    again would not go on as the one in memory does.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()


@cache
def _warn_of_code(name: str) -> None:
    print(f"warning: model.trust_remote_code: Python code that comes with {redact(name)} is run", file=sys.stderr)


def _check_folder(origin: _Origin, folder: Path) -> None:
    """Refuse damage that transformers would report without naming the file, and what it would add by itself."""
    if not (folder / "config.json").is_file():
        missing = "has no config.json" if folder.is_dir() else "does not exist"
        raise ModelError(f"{origin.subject} {missing}; {origin.advice}")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{origin.subject} holds an adapter beside the model; remove it, or merge the two with peft's "
            "merge_and_unload()"
        )
    for name in JSON_FILES:
        if (folder / name).is_file():
            _check_json(origin, folder / name)


def _check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer: transformers would make one with an empty vocabulary."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"there is no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save the model's tokenizer beside it"
        )


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    tokens, rows = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise ModelError(
            f"its tokenizer has {tokens:,} tokens, more than the {rows:,} that the model embeds; "
            "save the model's own tokenizer beside it"
        )


def _refuse_broken(model: PreTrainedModel) -> None:
    """Refuse weights that are NaN or infinite, with which every loss and every answer is."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"its weight '{name}' holds NaN or infinite values; use a checkpoint from before they did")


def _check_json(origin: _Origin, file: Path) -> None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{origin.subject} has a damaged {file.name} ({first_line(error)}); {origin.advice}"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{origin.subject} has a damaged {file.name} (it holds no object); {origin.advice}")


def _explain(origin: _Origin, revision: str | None, error: Exception) -> str:
    """One line that says why the model cannot be loaded, and what to do."""
    said = str(error)
    if "custom code" in said or "trust_remote_code" in said:
        return (
            f"{origin.subject} needs Python code that comes with it (auto_map); read that code, and if you trust it, "
            "set model.trust_remote_code: true"
        )
    unknown = re.search("model type `(.+?)` but Transformers does not recognize", said)
    if unknown:
        return (
            f"{origin.subject}: model type '{unknown[1]}' is unknown to the installed transformers; name another model"
        )
    pickle = _pickle(origin, revision)
    if pickle is not None and "safetensors" in said:
        return (
            f"{origin.subject} has its weights in {pickle} only, a pickle, which can run any code and is not read; if "
            "you trust it, load it with transformers and save_pretrained() it to a folder, which writes safetensors"
        )
    if origin.folder is not None and "no file named model.safetensors" in said:
        return f"{origin.subject} has no model.safetensors; {origin.advice}"
    if isinstance(error, SafetensorError):
        return f"{origin.subject} has damaged weights ({first_line(error)}); {origin.advice}"
    return f"{origin.subject} cannot be loaded ({first_line(error).rstrip('.')}); {origin.advice}"


def _pickle(origin: _Origin, revision: str | None) -> str | None:
    """The pickle that holds a model's weights, if there is one in its folder or in the hub's cache."""
    if origin.folder is not None:
        return next((file.name for file in sorted(origin.folder.glob("*.bin"))), None)
    with suppress(HFValidationError):
        for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
            if isinstance(try_to_load_from_cache(origin.source, name, revision=revision), str):
                return name
    return None


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """What is trained, for the plan: family, parameters in all, trainable parameters, what the family remarks."""
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    return {
        "family": loaded.family.name,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "trainable": trainable,
        "remarks": list(loaded.family.remarks),
    }
