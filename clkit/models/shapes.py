"""The shapes of a model's linear layers, however their weights are held or not loaded at all, and of its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from clkit.models.family import IGNORED, Family
from clkit.models.layers import linear_layers
from clkit.models.packed import packing


@dataclass(frozen=True)
class Shape:
    """A linear layer of a model.

    Attributes:
        owner: the module that it stands in beside others.
        rank, dropout: of the adapter that it carries; 0 without.
        whole: it is never quantized, as the output layer or since it is trained.
    """

    name: str
    owner: str
    outputs: int
    inputs: int
    trained: bool
    rank: int
    dropout: float
    whole: bool

    @property
    def reads_whole(self) -> bool:
        """Whether its gradient needs what it reads, as it stands; an adapter with dropout reads a copy of its own."""
        return self.trained or (self.rank > 0 and not self.dropout)


def shapes(family: Family) -> list[Shape]:
    """Every linear layer of the model, however its weights are held."""
    found = []
    for name, module in linear_layers(family.model).items():
        plain: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        inputs, outputs = (
            (plain.in_features, plain.out_features) if hasattr(plain, "in_features") else plain.weight.shape
        )
        rank, dropout = 0, 0.0
        if isinstance(module, LoraLayer):
            adapter = module.active_adapters[0]
            rank, dropout = module.r[adapter], getattr(module.lora_dropout[adapter], "p", 0.0)
        trained = plain.weight.requires_grad
        whole = trained or plain is family.base.get_output_embeddings()
        found.append(Shape(name, name.rpartition(".")[0], outputs, inputs, trained, rank, dropout, whole))
    return found


@dataclass(frozen=True)
class Batch:
    """The shape of a micro-batch.

    Attributes:
        examples: rows; of packed examples, several share one.
        tokens: of each example, padding included.
        answer: tokens of each that a decoder reads which has an encoder.
        positions: those with logits, of all examples together; where a decoder leaves out those before every answer,
            as if no two answers stood at the same.
    """

    examples: int
    tokens: int
    answer: int
    positions: int

    @classmethod
    def of(cls, family: Family, rows: Sequence[Mapping[str, Any]], *, packed: bool = False) -> Batch:
        """Of these encoded examples, as the collator joins them."""
        collate = packing(family.collator()) if packed else family.collator()
        batch = collate([dict(row) for row in rows])
        labels, (examples, tokens) = batch["labels"], batch["input_ids"].shape
        if family.objective.kind == "classification":
            return cls(examples, tokens, 0, 0)
        if family.base.config.is_encoder_decoder:
            return cls(examples, tokens, labels.shape[1], labels.numel())
        if labels.shape[1] == tokens:
            return cls(examples, tokens, 0, labels.numel())
        longest = int((labels != IGNORED).sum(dim=1).max())
        return cls(examples, tokens, 0, examples * min(tokens, examples * longest))
