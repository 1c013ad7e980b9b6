"""Pre-training of decoder-only models on plain text: every token is predicted from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clkit.errors import ModelError
from clkit.models.decoder import Decoder, first_id, token_ids
from clkit.models.family import LabelsOfTasks
from clkit.models.objective import Objective, Pretraining
from clkit.tasks.task import Task
from clkit.testing.section import EvaluationSection


class DecoderPretraining(Decoder):
    """−Σ_t log p(x_t | x_1, ..., x_{t−1}) over a block of text; its first token has no loss.

    A block is no whole text, so no token that ends a sequence stands behind it.
    """

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

    def answer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        task: Task,
        evaluation: EvaluationSection,
    ) -> list[str]:
        raise ModelError("objective.kind: pretraining has no answers; set evaluation.metric to perplexity or loss")
