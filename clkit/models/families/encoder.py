"""Encoder models such as RoBERTa and BERT: what their objectives have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from clkit.models.family import Batch, Family


class Encoder(Family):
    """BERT and its relatives (RoBERTa, MiniLM, ELECTRA, DeBERTa, ALBERT, MPNet), DistilBERT, ModernBERT, NomicBERT."""

    name: ClassVar[str] = "encoder"
    roles: ClassVar[Mapping[str, str]] = {
        "attention": (
            r"\.attention\.self\.((query|key|value)(_proj)?|in_proj)$|\.attention\.output\.dense$"  # BERT, DeBERTa
            r"|\.attention\.(query|key|value|dense)$|\.attn\.[qkvo]$"  # ALBERT; MPNet
            r"|\.attention(s\.\d+)?\.([qkv]|out)_lin$"  # DistilBERT, XLM
            r"|\.attn\.(Wqkv|Wo)$|\.self_attn\.[qkvo]_proj$"  # ModernBERT; NomicBERT, EuroBERT
        ),
        "feed_forward": (
            r"\.intermediate\.dense$|(?<!\.attention)\.output\.dense$|\.ffns?\.(\d+\.)?lin[12]$"
            r"|\.ffn(_output)?$|\.mlp\.(Wi|Wo|(gate|up|down)_proj|fc[12])$"
        ),
    }
    lora_targets: ClassVar[Sequence[Sequence[str]]] = (
        ("query", "value"),
        ("query_proj", "value_proj"),
        ("q_lin", "v_lin"),
        ("Wqkv",),
        ("q_proj", "v_proj"),
        ("q", "v"),
        ("in_proj",),
    )

    @classmethod
    def recognises(cls, config: Any) -> bool:
        decodes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
        return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        return batch["attention_mask"].bool()

    def reads_tokens(self, layer: str, call: int) -> bool:
        """DeBERTa's query and key layers are given the relative positions as well, each time after the tokens."""
        owner, _, name = layer.rpartition(".")
        attention = self.base.get_submodule(owner)
        both = getattr(attention, "relative_attention", False) and getattr(attention, "share_att_key", False)
        return not both or name not in ("query_proj", "key_proj") or call % 2 == 0

    def pad(self, texts: Iterable[Sequence[int]]) -> dict[str, torch.Tensor]:
        """One batch of texts' token ids: `input_ids` and `attention_mask`, texts × sequence.

        Padding stands on the right, whatever the tokenizer says: absolute positions are counted from the left.
        """
        ids = {"input_ids": [list(ids) for ids in texts]}
        padded = self.tokenizer.pad(ids, padding_side="right", return_tensors="pt")
        return {name: padded[name] for name in ("input_ids", "attention_mask")}
