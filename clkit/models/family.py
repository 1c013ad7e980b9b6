"""The contract of a model family with an objective, and the lookup of the one that a recipe's model needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from clkit.errors import ModelError
from clkit.models.likelihood import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from clkit.models.objective import Objective
    from clkit.tasks.task import Task
    from clkit.testing.section import EvaluationSection

#: Ends an answer that was cut off at its last allowed token, so that it cannot pass for a label that it begins with.
UNFINISHED = " …"

Batch = Mapping[str, torch.Tensor]
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

#: Labels of each task in the order of the prompt, by the task's name.
LabelsOfTasks = Mapping[str, Sequence[str]]


class Family(ABC):
    """What one family of models does in its own way for one objective: encoding, collating, answering, its layers.

    Each family has one class per objective that it supports (`clkit.models.objective`).
    """

    name: ClassVar[str]
    #: Role of a linear layer -> pattern that its full name matches (`re.search`). The first match counts.
    roles: ClassVar[Mapping[str, str]]
    #: Sets of endings of names, of which the first that the model has all of carry a LoRA adapter, unless the recipe
    #: names others: query and value, or the projection that holds both.
    lora_targets: ClassVar[Sequence[Sequence[str]]]
    #: Whether prompts may stand in the tokenizer's chat template.
    converses: ClassVar[bool] = False
    #: Names of the modules that are trained whole beside LoRA adapters, because they begin untrained; set by `load`.
    trained_whole: Sequence[str] = ()
    #: What a user should know of the model before it is trained, in a few words each; set by `load`.
    remarks: Sequence[str] = ()

    def __init__(self, objective: Objective, labels: LabelsOfTasks | None = None) -> None:
        self.objective = objective
        self.seen: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def recognises(cls, config: Any) -> bool:
        """Whether a model with this `transformers` config belongs to the family."""

    @abstractmethod
    def load(self, name: str, **arguments: Any) -> PreTrainedModel:
        """The pre-trained model, in float32."""

    def see(self, tasks: Iterable[str]) -> None:
        """Take note of the tasks that the model has learned, the one in training included. Only heads depend on it."""
        self.seen = tuple(tasks)

    @abstractmethod
    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        answers: Sequence[str],
        tasks: Sequence[str] = (),
    ) -> dict[str, list[Any]]:
        """What the model trains on, one entry per example in each column. For pretraining, the answer is the text.

        Args:
            tasks: the name of each example's task, which classification needs.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Pads encoded examples to one batch, with `labels` as `logits` needs them.

        The same examples make the same batch, whatever was drawn at random before, so that a task that was interrupted
        goes on with the same batches.
        """

    def logits(self, outputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """The model's outputs as logits that belong to the labels, position by position.

        Args:
            outputs: of the model's forward pass over a batch of the collator.
            labels: of the batch: batch × positions, -100 where no loss is due.

        Returns:
            batch × positions × classes; the logits at position t are for ``labels[:, t]``.
        """
        logits: torch.Tensor = outputs["logits"]
        return logits

    def logits_of_tasks(
        self, outputs: Mapping[str, Any], labels: torch.Tensor, tasks: Sequence[str]
    ) -> list[torch.Tensor]:
        """The logits by which the model would answer as one of these tasks, where a loss is due.

        Args:
            outputs, labels: as in `logits`.

        Returns:
            One tensor per head: answer tokens × classes. A model that writes its answers has one head for all tasks.
        """
        return [self.logits(outputs, labels)[labels != IGNORED]]

    @abstractmethod
    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        """Which positions of that layer's output are tokens rather than padding: bool, batch × positions."""

    @abstractmethod
    def answer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        task: Task,
        evaluation: EvaluationSection,
    ) -> list[str]:
        """The answers to one batch of prompts of that task. A pretraining objective has none.

        Raises:
            ModelError: the objective has no answers.
        """


class Generating(Family):
    """A family whose answers are texts that the model writes."""

    def answer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        task: Task,
        evaluation: EvaluationSection,
    ) -> list[str]:
        """Greedy answers, or the likeliest labels. A task with labels is given as many tokens as its longest takes."""
        if task.labels is None:
            return self.generate(model, tokenizer, prompts, evaluation.max_new_tokens)
        if evaluation.answer == "rank":
            best = self.log_likelihood(model, tokenizer, prompts, task.labels).argmax(dim=1)
            return [task.labels[index] for index in best.tolist()]
        longest = max(self.answer_tokens(tokenizer, label) for label in task.labels)
        return self.generate(model, tokenizer, prompts, longest)

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


def families() -> dict[str, dict[str, type[Family]]]:
    """Each family's class per objective, by the family's name; the first family that recognises a model has it."""
    from clkit.models.classifier import Classifier
    from clkit.models.decoder import Decoder
    from clkit.models.masked_tokens import MaskedTokens
    from clkit.models.next_token import DecoderPretraining
    from clkit.models.seq2seq import Seq2Seq
    from clkit.models.span_corruption import Seq2SeqPretraining

    return {
        "seq2seq": {"text_to_text": Seq2Seq, "pretraining": Seq2SeqPretraining},
        "decoder": {"text_to_text": Decoder, "pretraining": DecoderPretraining},
        "encoder": {"classification": Classifier, "pretraining": MaskedTokens},
    }


def family_of(config: Any, objective: Objective, labels: LabelsOfTasks | None = None) -> Family:
    """The family that a model with this config belongs to, for an objective.

    Args:
        labels: of all tasks; classification needs them.

    Raises:
        ModelError: no family recognises the model, or its family does not support the objective.
    """
    known = families()
    for name, classes in known.items():
        if next(iter(classes.values())).recognises(config):
            if objective.kind not in classes:
                raise ModelError(
                    f"{name} models such as this '{config.model_type}' do not support objective.kind: "
                    f"{objective.kind}; use one of: {', '.join(classes)}"
                )
            return classes[objective.kind](objective, labels)
    raise ModelError(
        f"model type '{config.model_type}' is not supported (families: {', '.join(known)}); "
        "use a T5-like, Llama-like or RoBERTa-like model, for example embedded:tiny-t5"
    )
