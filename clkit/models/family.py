"""The contract of a model family, and the lookup of the family that a model belongs to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from clkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Ends an answer that was cut off at its last allowed token, so that it cannot pass for a label that it begins with.
UNFINISHED = " …"

Batch = Mapping[str, torch.Tensor]
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class Family(ABC):
    """What one family of models does in its own way: encoding, collating, answering, naming its layers."""

    name: ClassVar[str]
    #: Role of a linear layer -> pattern that its full name matches (`re.search`). The first match counts.
    roles: ClassVar[Mapping[str, str]]
    #: Endings of the names of the layers that carry a LoRA adapter unless the recipe says otherwise.
    lora_targets: ClassVar[Sequence[str]]

    @classmethod
    @abstractmethod
    def recognises(cls, config: Any) -> bool:
        """Whether a model with this `transformers` config belongs to the family."""

    @classmethod
    @abstractmethod
    def load(cls, name: str, **arguments: Any) -> PreTrainedModel:
        """The pre-trained model, in float32."""

    @abstractmethod
    def encode(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
    ) -> dict[str, list[list[int]]]:
        """Token ids of prompts and answers as the model trains on them, one list per example."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Pads encoded examples to one batch, with `labels` -100 wherever no loss is due."""

    @abstractmethod
    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        """Which positions of that layer's output are tokens rather than padding: bool, batch × sequence."""

    @abstractmethod
    def generate(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to one batch of prompts; one cut off after ``max_new_tokens`` ends in `UNFINISHED`."""

    @abstractmethod
    def log_likelihood(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> torch.Tensor:
        """log p(answer | prompt), summed over the answer's tokens: float32, prompts × answers."""

    @abstractmethod
    def answer_tokens(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
        """How many new tokens it takes to generate the answer, the end-of-sequence token included."""


def family_of(config: Any) -> Family:
    """The family that a model with this config belongs to.

    Raises:
        ModelError: no family recognises it.
    """
    from clkit.models.seq2seq import Seq2Seq

    families: list[type[Family]] = [Seq2Seq]
    for family in families:
        if family.recognises(config):
            return family()
    raise ModelError(
        f"model type '{config.model_type}' is not supported (families: {', '.join(f.name for f in families)}); "
        "use a T5-like model, for example google-t5/t5-small or embedded:tiny-t5"
    )
