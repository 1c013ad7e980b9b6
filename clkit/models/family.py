"""The contract of a model family with an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clkit.errors import ModelError
from clkit.models.chat import ChatTemplate
from clkit.models.objective import Objective
from clkit.models.weights import Weights
from clkit.tasks.task import Task

#: Label of a position where no loss is due.
IGNORED = -100
#: Of a packed batch (`training.packing`): 1 where positions are tokens, 0 where padding; in place of `attention_mask`.
TOKENS = "tokens"
#: Two short texts of unequal length, to try a model with.
PROBE = ("a b c d e f g h i", "a b")
#: Logit of a class that cannot be chosen, such as a row of a head that is closed: its probability is exactly 0, yet a
#: divergence over all classes stays finite, in float16 too.
CLOSED = -1e4

Batch = Mapping[str, torch.Tensor]
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

#: Labels of each task in the order of the prompt, by the task's name.
LabelsOfTasks = Mapping[str, Sequence[str]]


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−Σ log p(label) over the positions with a label, in float32 at least.

    Args:
        logits: batch × sequence × vocabulary; position t predicts ``labels[:, t]``.
        labels: batch × sequence, `IGNORED` where no loss is due.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


class Family(ABC):
    """What one family of models does in its own way for one objective: encoding, collating, answering, its layers.

    Each family has one class per objective that it supports (`clkit.models.objective`). An object of it owns the model
    and the tokenizer it was made with.
    """

    name: ClassVar[str]
    #: The objective (`kind`) that a class of the family is for.
    objective_kind: ClassVar[str]
    #: Settings of the objective that the family cannot follow, with the reason.
    has_no: ClassVar[Mapping[str, str]] = {}
    #: Role of a linear layer -> pattern that its full name matches (`re.search`). The first match counts.
    roles: ClassVar[Mapping[str, str]]
    #: Sets of endings of names, of which the first that the model has all of carry a LoRA adapter, unless the recipe
    #: names others: query and value, or the projection that holds both.
    lora_targets: ClassVar[Sequence[Sequence[str]]]
    #: The tokenizer's chat template, where prompts and answers stand in it.
    chat: ChatTemplate | None = None
    #: The class of `transformers` that makes such a model.
    auto_class: ClassVar[Any]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        labels: LabelsOfTasks | None = None,
    ) -> None:
        #: The model itself, with its adapters where it has some. To replace it is to set this.
        self.model = model
        self.tokenizer = tokenizer
        self.objective = objective
        self.seen: tuple[str, ...] = ()
        #: Names of the modules that are trained whole beside LoRA adapters, because they begin untrained.
        self.trained_whole: Sequence[str] = ()
        #: What a user should know of the model before it is trained, in a few words each.
        self.remarks: Sequence[str] = ()
        self._tokens: dict[str, Sequence[int]] = {}

    @classmethod
    @abstractmethod
    def recognises(cls, config: Any) -> bool:
        """Whether a model with this `transformers` config belongs to the family."""

    @classmethod
    @abstractmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        """The pre-trained model, in float32, ready for the objective.

        Args:
            labels: of all tasks of the sequence, which classification needs.

        Raises:
            ModelError: the model does not fit the objective.
        """

    def converse(self, wanted: bool) -> None:
        """Whether prompts and answers stand in the tokenizer's chat template from now on.

        Raises:
            ModelError: they cannot.
        """
        if wanted:
            raise ModelError(
                f"prompt.chat_template: {self.name} models have no turns of a user and an assistant; set it to false, "
                "or use a decoder that is tuned for conversations"
            )

    def see(self, tasks: Iterable[str]) -> None:
        """Take note of the tasks that the model has learned, the one in training included. Only heads depend on it."""
        self.seen = tuple(tasks)

    def make_room(self, stored: Mapping[str, Sequence[int]]) -> None:
        """Make the model ready for a saved adapter that is about to be loaded. Only heads depend on it.

        Args:
            stored: the shapes of its weights, by their names.
        """
        return

    @abstractmethod
    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        """What the model trains on, one entry per example in each column. For pretraining, the answer is the text.

        Args:
            tasks: the name of each example's task, which classification needs.
        """

    def encode_texts(self, texts: Sequence[str]) -> dict[str, list[Any]]:
        """As `encode`, of plain texts that stand beside a task's examples, in the columns that these have.

        Raises:
            ModelError: the tokenizer lacks a token that this takes.
        """
        raise NotImplementedError  # only where another objective of the family reads and writes texts

    def learn_turns(
        self,
        columns: dict[str, list[Any]],
        prompts: Sequence[str],
        answers: Sequence[str],
        learned: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        """Put labels where turns before the last answer are learned too, in what `encode` made of these examples.

        Args:
            learned: from which letter and up to which, in each prompt.
        """
        raise NotImplementedError  # only a decoder has turns

    def probe(self, answers: Sequence[str] = ("a", "a b c d e"), tasks: Sequence[str] = ()) -> Batch:
        """A batch of two short examples of unequal length, as the collator makes it, where the model is."""
        columns = self.encode(PROBE, answers, tasks)
        batch = self.collator()([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    @property
    def base(self) -> PreTrainedModel:
        """The model that adapters are in, which knows nothing of them."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @abstractmethod
    def collator(self) -> Collator:
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

    def reads_tokens(self, layer: str, call: int) -> bool:
        """Whether that layer is given the batch's tokens in its n-th call of a forward pass, n from 0."""
        return True

    def answer(self, prompts: Sequence[str], task: Task, *, rank: bool = False, max_new_tokens: int = 50) -> list[str]:
        """The answers to one batch of prompts of that task.

        Args:
            rank: choose the likeliest label, rather than generate.
            max_new_tokens: of an answer to a task without labels.

        Raises:
            ModelError: the objective has no answers.
        """
        raise ModelError("objective.kind: pretraining has no answers; set evaluation.metric to perplexity or loss")

    def prompt_ids(self, prompts: Sequence[str]) -> list[Sequence[int]]:
        """The tokens by which the model is asked each prompt; read once, since tests ask the same after each stage."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._tokens]
        if new:
            self._tokens.update(zip(new, (array("i", ids) for ids in self._prompt_ids(new)), strict=True))
        return [self._tokens[prompt] for prompt in prompts]

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(prompts), truncation=False)["input_ids"]
        return ids

    def decoder_start(self) -> int | None:
        """The token that the decoder of an encoder-decoder model begins with."""
        return None

    @abstractmethod
    def usage(self, prompt: str, max_new_tokens: int) -> list[str]:
        """Lines of Python that print what the model says, by stock `transformers`, which has no part of clkit.

        In them `model`, `tokenizer` and `prompt` are what they are called.

        Args:
            prompt: one, by whose tokens it shows how such prompts are read.
        """

    def scores(self, prompts: Sequence[str], task: Task) -> list[dict[str, float]]:
        """The probability of each label of that task, and of others that compete with them, one batch of prompts."""
        raise NotImplementedError


class Generating(Family):
    """A family whose answers are texts that the model writes."""

    def answer(self, prompts: Sequence[str], task: Task, *, rank: bool = False, max_new_tokens: int = 50) -> list[str]:
        """Greedy answers, or the likeliest labels. A task with labels is given as many tokens as its longest takes."""
        if rank and task.labels is not None:
            best = self.log_likelihood(prompts, task.labels).argmax(dim=1)
            return [task.labels[index] for index in best.tolist()]
        return self.generate(prompts, self.new_tokens(task, max_new_tokens))

    def new_tokens(self, task: Task, max_new_tokens: int) -> int:
        """How many tokens an answer to the task may have."""
        return max(self.answer_tokens(task.labels)) if task.labels else max_new_tokens

    def scores(self, prompts: Sequence[str], task: Task) -> list[dict[str, float]]:
        """softmax_y log p(y | prompt) over the labels, each log-likelihood summed over the label's tokens."""
        labels = task.labels or ()
        return [
            dict(zip(labels, row, strict=True)) for row in self.log_likelihood(prompts, labels).softmax(dim=1).tolist()
        ]

    @abstractmethod
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers to one batch of prompts; one cut off after ``max_new_tokens`` ends in `UNFINISHED`."""

    @abstractmethod
    def log_likelihood(self, prompts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        """log p(answer | prompt), summed over the answer's tokens: float32, prompts × answers."""

    @abstractmethod
    def as_written(self, answers: Sequence[str]) -> list[str]:
        """What is read of each answer where the model writes just its tokens: without what has none."""

    @abstractmethod
    def answer_tokens(self, answers: Sequence[str]) -> list[int]:
        """How many new tokens it takes to generate each answer, the one that ends it included."""
