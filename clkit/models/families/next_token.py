"""Pre-training of decoder-only models on plain text: every token is predicted from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from clkit.models.families.decoder import Decoder, first_id, token_ids
from clkit.models.family import Family


class DecoderPretraining(Decoder):
    """−Σ_t log p(x_t | x_1, ..., x_{t−1}) over a block of text; its first token has no loss.

    A block is no whole text, so no token that ends a sequence stands behind it.
    """

    objective_kind: ClassVar[str] = "pretraining"
    has_no: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("masked_share", "span_length"), "a decoder predicts the next token and masks none"
    )
    answer = Family.answer  # which says that there are none

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        begin, texts = first_id(self.tokenizer), token_ids(self.tokenizer, answers)
        ids = [text if len(text) > 1 else [begin, *text] for text in texts]
        return {"input_ids": ids, "labels": [list(text) for text in ids]}

    def encode_texts(self, texts: Sequence[str]) -> dict[str, list[Any]]:
        return self.encode([], texts)
