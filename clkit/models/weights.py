"""Reads a model's weights: from safetensors only, and every one of them, but for a head that is made for the tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from clkit.models.modalities import freeze_beside_text
from clkit.models.stored_adapters import merged_from, stored_weights

#: Whether a model may lack the weight of that name.
MayLack = Callable[[PreTrainedModel, str], bool]


@dataclass(frozen=True)
class Weights:
    """A model's weights in a folder or on the hub.

    Attributes:
        arguments: of `from_pretrained`, that say where the model is found.
        held: those that say how it is held: dtype, quantization, attention.
        shapes_only: read none of them; the model is on torch's device `meta`, where tensors have shapes and no numbers.
    """

    name: str
    arguments: Mapping[str, Any]
    #: Folders of LoRA adapters, which are merged into the model in this order.
    adapters: Sequence[Path] = ()
    held: Mapping[str, Any] = field(default_factory=dict)
    shapes_only: bool = False

    def config(self) -> Any:
        """The model's configuration; that of a head is saved beside the adapter that trained it."""
        for folder in self.adapters[-1:]:
            if (folder / "config.json").is_file():
                return AutoConfig.from_pretrained(folder)
        return AutoConfig.from_pretrained(self.name, **self.arguments)

    def read(self, auto_class: Any) -> PreTrainedModel:
        """The model, in float32 unless it is to be held otherwise.

        Args:
            auto_class: the `transformers` class that makes the model, such as `AutoModelForSeq2SeqLM`.

        Raises:
            ValueError: weights are missing, left over, or have another shape than the model's.
            OSError: there are no weights in safetensors.
            SafetensorError: they are damaged.
        """
        return self.read_but(auto_class, lambda model, weight: False)[0]

    def read_but(self, auto_class: Any, may_lack: MayLack, **further: Any) -> tuple[PreTrainedModel, list[str]]:
        """The model as `read` gives it, and which of the weights that it may lack were drawn at random.

        Transformers draws at random whatever the files lack, or hold in another shape, and only warns.
        """
        if self.shapes_only:
            return self._shapes(auto_class, **further), []
        model, found = auto_class.from_pretrained(
            self.name,
            use_safetensors=True,  # a .bin file is a pickle, and reading one can run any code
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **self.arguments,
            **{"dtype": torch.float32, **self.held},
            **further,
        )
        provided: set[str] = set()
        for folder in self.adapters:
            model, whole = merged_from(model, folder)
            provided |= whole
        found = {kind: [key for key in keys if _name(key) not in provided] for kind, keys in found.items()}
        missing = sorted(key for key in found["missing_keys"] if not may_lack(model, key))
        _refuse_other_depth(model, set(missing), found["unexpected_keys"])
        drawn = [*found["missing_keys"], *(key for key, _, _ in found["mismatched_keys"])]
        for key, stored, wanted in sorted(found["mismatched_keys"]):
            if not may_lack(model, key):
                raise ValueError(
                    f"its weights do not fit its config.json: '{key}' is {list(stored)}, not {list(wanted)}"
                )
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"its weights are incomplete: no '{missing[0]}'{more}")
        freeze_beside_text(model)
        return model, sorted(drawn)

    def _shapes(self, auto_class: Any, **further: Any) -> PreTrainedModel:
        for folder in self.adapters:
            stored_weights(folder)  # which refuses those of other kinds
        config = self.config()
        for key, value in further.items():
            setattr(config, key, value)
        attention = self.held.get("attn_implementation")  # flash attention keeps what sdpa does, which needs no package
        own = {} if attention is None else {"attn_implementation": attention.replace("flash_attention_2", "sdpa")}
        trust = self.arguments.get("trust_remote_code", False)
        with torch.device("meta"):
            model: PreTrainedModel = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=trust, **own)
        freeze_beside_text(model)
        return model


def _name(key: str | tuple[Any, ...]) -> str:
    """Of a weight, which stands first where its shapes are told too."""
    return key if isinstance(key, str) else str(key[0])


def _refuse_other_depth(model: PreTrainedModel, missing: set[str], unexpected: Iterable[str]) -> None:
    """Refuse weights of more or fewer layers than the model has, and those that a part of it has no place for.

    Left over may be buffers, and weights of another head, which are of no part of the model.
    """
    parts = dict(model.named_modules())
    lists = {name: part for name, part in parts.items() if isinstance(part, nn.ModuleList)}
    stored = {}
    for name, layers in lists.items():
        weights = [{f"{name}.{n}.{own}" for own, _ in layer.named_parameters()} for n, layer in enumerate(layers)]
        drawn = sum(bool(own) and own <= missing for own in weights)
        if drawn:
            stored[name] = len(layers) - drawn
    for key in sorted(unexpected):
        above, _, kind = key.rpartition(".")
        numbered = re.match(r"(.+?)\.(\d+)\.", key)
        place, count = (numbered[1], int(numbered[2]) + 1) if numbered else (above, 0)
        name = place if place in lists else f"{model.base_model_prefix}.{place}"  # saved without its head
        if name in lists and count > len(lists[name]):
            stored[name] = max(stored.get(name, 0), count)
        elif kind in ("weight", "bias") and [*parts.get(above, nn.Module()).parameters(recurse=False)]:
            raise ValueError(f"its weights hold '{key}', for which its config.json has no place")
    for name, count in stored.items():
        raise ValueError(f"its weights hold {count} layers of '{name}', its config.json says {len(lists[name])}")


def draw_anew(model: PreTrainedModel, parts: Iterable[nn.Module]) -> None:
    """Draw the weights of these parts of a model at random, as those of a model that was never trained."""
    for module in (module for part in parts for module in part.modules()):
        for marked in (module, *module.parameters(recurse=False)):
            marked._is_hf_initialized = False  # type: ignore[attr-defined]  # else transformers leaves them as they are
        model._init_weights(module)
