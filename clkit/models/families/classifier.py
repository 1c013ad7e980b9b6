"""Classification with an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from clkit.models.classifying import Classifying
from clkit.models.families.encoder import Encoder
from clkit.models.family import Batch


class Classifier(Classifying, Encoder):
    """A head on the text's first token, or on what the encoder's pooler makes of it."""

    objective_kind: ClassVar[str] = "classification"
    roles: ClassVar[Mapping[str, str]] = {
        **Encoder.roles,
        "head": r"^(classifier|pre_classifier|score|head|pooler|dense|sequence_summary)(\.|$)|\.pooler(\.|$)",
    }
    pad = Encoder.pad

    def _further_parts(self, drawn: Sequence[str], known: bool) -> Sequence[str]:
        # A saved stage has the weights of a pooler that was drawn for its first task, and it is still to be trained.
        config, pooler = self.model.config, self._pooler
        config.clkit_drawn_pooler = any(weight.startswith(f"{pooler}.") for weight in drawn) or (
            known and getattr(config, "clkit_drawn_pooler", False)
        )
        return [pooler] if config.clkit_drawn_pooler else []

    @property
    def _pooler(self) -> str:
        return f"{self.base.base_model_prefix}.pooler"

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        if any(layer == part or layer.startswith(f"{part}.") for part in (*self._head, self._pooler)):
            return torch.ones_like(batch["input_ids"][:, :1], dtype=torch.bool)  # one position for the whole text
        return super().token_mask(layer, batch)
