"""Pre-training of decoder-only models on plain text: every token is predicted from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from clkit.errors import ModelError
from clkit.models.families.decoder import Decoder, first_id, token_ids
from clkit.models.family import Family, LabelsOfTasks
from clkit.models.objective import Objective, Pretraining


class DecoderPretraining(Decoder):
    """−Σ_t log p(x_t | x_1, ..., x_{t−1}) over a block of text; its first token has no loss.

    A block is no whole text, so no token that ends a sequence stands behind it.
    """

    objective_kind: ClassVar[str] = "pretraining"
    answer = Family.answer  # which says that there are none

    def __init__(self, objective: Objective, labels: LabelsOfTasks | None = None) -> None:
        super().__init__(objective, labels)
        assert isinstance(objective, Pretraining)
        for key in ("masked_share", "span_length"):
            if getattr(objective, key) is not None:
                raise ModelError(f"objective.{key}: a decoder predicts the next token and masks none; set it to null")

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        answers: Sequence[str],
        tasks: Sequence[str] = (),
    ) -> dict[str, list[Any]]:
        ids = [text if len(text) > 1 else [first_id(tokenizer), *text] for text in token_ids(tokenizer, answers)]
        return {"input_ids": ids, "labels": [list(text) for text in ids]}
