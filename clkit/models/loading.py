"""Loads a model with its tokenizer, from the hub, a folder, the package itself, or a saved stage of a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import PeftModel, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, GgufConfig, PreTrainedModel

from clkit.errors import ModelError, first_line
from clkit.models.adapters import add_adapter, load_adapter, merge_adapter, save_configuration
from clkit.models.chain import Chain, chain_of
from clkit.models.family import Family, Generating, LabelsOfTasks
from clkit.models.folders import Origin, check_folder, check_tokenizer, lacks_weights, only_pickle
from clkit.models.groups import freeze
from clkit.models.held import check_held, held, keep_quantized
from clkit.models.layers import trained_parameters
from clkit.models.objective import Objective, TextToText
from clkit.models.registry import family_of
from clkit.models.sections import ModelSection, Tuning
from clkit.models.tokenizers import save_tokenizer
from clkit.models.weights import Weights
from clkit.redaction import redact

#: Bytes at whose multiples torch allocates.
ALIGNMENT = 64


def load_model(
    section: ModelSection,
    tuning: Tuning,
    stages: Sequence[Path] = (),
    objective: Objective | None = None,
    labels: LabelsOfTasks | None = None,
    *,
    shapes_only: bool = False,
) -> Family:
    """The model of a recipe, tuned as it says; with ``stages``, as it was saved after the last of these tasks.

    Args:
        stages: the folders of the tasks learned so far, in order. Full tuning reads `model/` and one LoRA adapter reads
            `adapter/` of the last; incremental LoRA merges the adapters of all but the last into the model.
        objective: what the model is for; text to text where None.
        labels: of all tasks of the sequence, which classification needs.
        shapes_only: read configuration and tokenizer but no weights; nothing can be computed with such a model.

    Raises:
        ModelError: the model cannot be found or loaded, or belongs to no known family.
    """
    full = tuning.method == "full"
    saved = stages[-1] if full and stages else None
    chain = Chain(section) if saved else chain_of(section)
    chain.refuse_damage()
    family = _load_base(chain, Origin.of(chain.section, saved), objective or TextToText(), labels or {}, shapes_only)
    if tuning.method == "full":
        freeze(family, tuning.freeze)
        return family
    if shapes_only:
        with torch.device("meta"):
            add_adapter(family, tuning)
        return family
    if chain.section.quantization is not None:
        prepare_model_for_kbit_training(family.model, use_gradient_checkpointing=False)  # which the Trainer does
    if not stages:
        add_adapter(family, tuning)
        return family
    for earlier in stages[:-1] if tuning.method == "incremental_lora" else []:
        load_adapter(family, earlier / "adapter")
        merge_adapter(family)
    load_adapter(family, stages[-1] / "adapter")
    return family


def begin_task(family: Family, tuning: Tuning, index: int, seed: int) -> None:
    """Make the model ready for task ``index`` (from 0): with incremental LoRA, a fresh adapter on the merged model.

    Args:
        seed: of the fresh adapter's A; its B is zero, so the model answers as before.
    """
    if tuning.method == "incremental_lora" and index > 0:
        merge_adapter(family)
        torch.manual_seed(seed)
        add_adapter(family, tuning)


def save_model(family: Family, stage: Path) -> None:
    """Write `model/` or, where adapters are trained, `adapter/` into a task's folder, as `load_model` reads it."""
    part = "adapter" if isinstance(family.model, PeftModel) else "model"
    family.model.save_pretrained(stage / part)
    if part == "adapter":
        save_configuration(family, stage / part)
    save_tokenizer(family.tokenizer, stage / part)


def _load_base(chain: Chain, origin: Origin, objective: Objective, labels: LabelsOfTasks, shapes_only: bool) -> Family:
    section = chain.section
    gguf = None if origin.saved else origin.gguf_file(section.gguf_file)
    if origin.folder is not None and gguf is None:
        check_folder(origin, origin.folder)
    if not shapes_only:
        check_held(chain, gguf)
    if section.trust_remote_code:
        _warn_of_code(section.name)
    revision = None if origin.saved else section.revision
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": section.trust_remote_code}
    if gguf is not None:
        arguments["gguf_file"] = gguf
    with _explained(origin, revision):
        config = AutoConfig.from_pretrained(origin.source, **arguments)
        kind = family_of(config, objective)
        own = chain.tokenizer_folder
        if own is None and origin.folder is not None and gguf is None:
            check_tokenizer(origin.folder)
        trust = {"trust_remote_code": section.trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(own or origin.source, **(trust if own else arguments))
        tokenizer("a")  # some load, and then cannot read a text
        if gguf is not None:  # to read the configuration once more would take seconds; packed weights cannot be trained
            arguments |= {"config": config, "quantization_config": GgufConfig(dequantize=True)}
        refused = _refused_generation(origin, revision)  # no answer depends on it, but with it nothing is loaded
        default = {"generation_config": GenerationConfig.from_model_config(config)} if refused else {}
        weights = Weights(origin.source, arguments, chain.adapters, {**held(chain), **default}, shapes_only)
        family = kind.load(weights, tokenizer, objective, labels)
        if refused:
            family.remarks = (
                *family.remarks,
                f"generation_config.json is left out: transformers refuses it ({refused})",
            )
        keep_quantized(family.model)
        _check_vocabulary(family)
        if not shapes_only:
            _refuse_broken(family.model)
        if isinstance(family, Generating) and tokenizer.eos_token_id is None:
            raise ModelError("its tokenizer has no end-of-sequence token (eos_token), so no answer would ever end")
    align(family.model)
    return family


@contextmanager
def _explained(origin: Origin, revision: str | None) -> Iterator[None]:
    """Turns what loading a model raises into one line that names the model."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{origin.subject}: {error}") from error
    except Exception as error:  # no narrower: hub, configuration, tokenizer and weights share no base class
        raise ModelError(_explain(origin, revision, error)) from error


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


def _check_vocabulary(family: Family) -> None:
    tokens = max(family.tokenizer.get_vocab().values()) + 1
    rows = family.model.get_input_embeddings().weight.shape[0]
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


def _explain(origin: Origin, revision: str | None, error: Exception) -> str:
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
    if re.search("does not support (Flash Attention|an attention implementation)", said):
        return f"model.attention: {origin.subject.removeprefix('model.name: ')} has no such one; set it to null"
    if "safetensors" in said and (lacking := _lacks_weights(origin, revision)):
        return lacking
    if isinstance(error, SafetensorError):
        return f"{origin.subject} has damaged weights ({first_line(error)}); {origin.advice}"
    return f"{origin.subject} cannot be loaded ({first_line(error).rstrip('.')}); {origin.advice}"


def _refused_generation(origin: Origin, revision: str | None) -> str | None:
    """Why a model's generation_config.json cannot be read, if so: transformers does not say which file is at fault."""
    try:
        GenerationConfig.from_pretrained(origin.source, revision=revision)
    except OSError:  # there is none
        return None
    except Exception as error:  # no narrower: any value of any type may stand in it
        return first_line(error)
    return None


def _lacks_weights(origin: Origin, revision: str | None) -> str | None:
    """What to say of a model whose weights are not there, or in a pickle, be it in its folder or in the hub's cache."""
    if origin.folder is not None:
        return lacks_weights(origin, origin.folder)
    with suppress(HFValidationError):
        for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
            if isinstance(try_to_load_from_cache(origin.source, name, revision=revision), str):
                return only_pickle(origin, name)
    return None


def describe(family: Family) -> dict[str, Any]:
    """What is trained, for the plan: family, parameters in all, trainable parameters, what the family remarks."""
    return {
        "family": family.name,
        "parameters": family.model.num_parameters(),
        "trainable": sum(p.numel() for p in trained_parameters(family.model).values()),
        "remarks": list(family.remarks),
    }
