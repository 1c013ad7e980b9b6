"""Encoder models such as RoBERTa and BERT: what their objectives have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from clkit.models.family import Batch, Family

HEAD_DRAWN = "head drawn at random"


class Encoder(Family):
    """BERT and its relatives (RoBERTa, MiniLM, ELECTRA, DeBERTa), DistilBERT and ModernBERT."""

    name: ClassVar[str] = "encoder"
    roles: ClassVar[Mapping[str, str]] = {
        "attention": (
            r"\.attention\.self\.(query|key|value)(_proj)?$|\.attention\.output\.dense$"  # BERT; DeBERTa: _proj
            r"|\.attention\.([qkv]|out)_lin$"  # DistilBERT
            r"|\.attn\.(Wqkv|Wo)$"  # ModernBERT
        ),
        "feed_forward": r"\.intermediate\.dense$|(?<!\.attention)\.output\.dense$|\.ffn\.lin[12]$|\.mlp\.(Wi|Wo)$",
    }
    lora_targets: ClassVar[Sequence[Sequence[str]]] = (
        ("query", "value"),
        ("query_proj", "value_proj"),
        ("q_lin", "v_lin"),
        ("Wqkv",),
    )

    @classmethod
    def recognises(cls, config: Any) -> bool:
        decodes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
        return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        return batch["attention_mask"].bool()

    def pad(self, texts: Iterable[Sequence[int]]) -> dict[str, torch.Tensor]:
        """One batch of texts' token ids: `input_ids` and `attention_mask`, texts × sequence.

        Padding stands on the right, whatever the tokenizer says: absolute positions are counted from the left.
        """
        ids = {"input_ids": [list(ids) for ids in texts]}
        padded = self.tokenizer.pad(ids, padding_side="right", return_tensors="pt")
        return {name: padded[name] for name in ("input_ids", "attention_mask")}


def in_head(model: PreTrainedModel, weight: str) -> bool:
    """Whether a weight is of the head: of what comes behind the encoder, or of the pooler that only some heads need."""
    encoder = model.base_model_prefix
    return not weight.startswith(f"{encoder}.") or weight.startswith(f"{encoder}.pooler.")


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The parts of the model that come behind the encoder, by name, as far as they have weights."""
    parts = dict(model.named_children())
    return {name: part for name, part in parts.items() if name != model.base_model_prefix and [*part.parameters()]}
