"""Classification: a head whose rows are the labels, on an encoder or a decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from clkit.errors import ModelError
from clkit.models.family import CLOSED, Batch, Collator, Family, LabelsOfTasks
from clkit.models.heads import HEAD_DRAWN, Rows, head_modules, in_head
from clkit.models.objective import HEADS, Classification, Objective
from clkit.models.weights import Weights, draw_anew
from clkit.tasks.task import Task


def row_names(objective: Classification, labels: LabelsOfTasks) -> list[str]:
    """What each row of the head stands for, in order."""
    return list(dict.fromkeys(_name(objective, task, label) for task, own in labels.items() for label in own))


def _name(objective: Classification, task: str, label: str) -> str:
    return label if objective.heads == "shared" else f"{task}: {label}"


class Classifying(Family):
    """p(y | x) = softmax over the open rows of the head's logits z(x), one row per label (`objective.heads`).

    ``shared`` (class-incremental): labels with the same text share a row, whichever tasks they are from. Open are the
    rows of all tasks seen so far, the one in training included; when a task is tested, its own labels' rows too, so
    that the model can be asked about a task before it learns it (the zero-shot row).

    ``per_task`` (task-incremental): each task's labels have rows of their own. Open are those of the gold label's task,
    or of the task that is tested.

    A closed row has the logit `CLOSED` and gets no gradient. The head has no rows but those of the tasks seen, of those
    before them and of the first one: the others are added when their tasks begin (`clkit.models.heads`). A test of a
    task that is still to come adds its rows for as long as it takes.
    """

    objective: Classification
    auto_class: ClassVar[Any] = AutoModelForSequenceClassification

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        objective: Classification,
        labels: LabelsOfTasks,
    ) -> None:
        super().__init__(model, tokenizer, objective)
        pairs = [(task, label) for task, own in labels.items() for label in own]
        self._row_of_name = {name: row for row, name in enumerate(row_names(objective, labels))}
        self._row = {pair: self._row_of_name[_name(objective, *pair)] for pair in pairs}
        self._label = {row: label for (_, label), row in self._row.items()}
        self._seed = torch.initial_seed()
        # Where each task has rows of its own, each row has one task.
        self._task_of_row = torch.tensor([list(labels).index(task) for task, _ in pairs])
        self._head = tuple(head_modules(model))

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        """The pre-trained model, with a head that is drawn at random unless the model has one for the first labels.

        A saved stage of a run has. The head of another classifier is not used: its rows mean other labels. Torch's seed
        decides what is drawn, now and when the head grows.
        """
        assert isinstance(objective, Classification)
        config = weights.config()
        names = row_names(objective, labels)
        first = row_names(objective, dict([*labels.items()][:1]))
        classifies = any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ())
        stored = [*(config.id2label or {}).values()]
        known = classifies and len(stored) >= len(first) and stored == names[: len(stored)]
        present = dict(enumerate(stored if known else first))
        model, drawn = weights.read_but(
            cls.auto_class,
            lambda model, weight: not known and in_head(model, weight),
            id2label=present,
            label2id={label: row for row, label in present.items()},
        )
        if classifies and not known:
            draw_anew(model, head_modules(model).values())
        family = cls(model, tokenizer, objective, labels)
        if not known:
            family._rows.draw(first)
        family.trained_whole = (*family._head, *family._further_parts(drawn, known))
        family.remarks = (HEADS[objective.heads], *([] if known else [HEAD_DRAWN]))
        return family

    def _further_parts(self, drawn: Sequence[str], known: bool) -> Sequence[str]:
        """What is trained whole beside the head.

        Args:
            drawn: weights that were drawn at random.
            known: whether the head was not.
        """
        return ()

    @abstractmethod
    def pad(self, texts: Iterable[Sequence[int]]) -> dict[str, torch.Tensor]:
        """One batch of texts' token ids: `input_ids` and `attention_mask`, texts × sequence, padded on the right."""

    def usage(self, prompt: str, max_new_tokens: int) -> list[str]:
        return [
            'scores = model(input_ids=tokenizer(prompt, return_tensors="pt").input_ids).logits[0]',
            "print(model.config.id2label[int(scores.argmax())])",
        ]

    def keep_only(self, tasks: Iterable[str]) -> None:
        """Leave no row in the head but those of these tasks, under the names of their labels, as a stock classifier."""
        rows = self._rows_of(tasks)
        self._rows.keep(rows)
        self._name_rows(self._label[row] for row in rows)

    def answerable(self, tasks: Iterable[str]) -> list[str]:
        """Those of these tasks for whose labels the head has rows."""
        return [task for task in tasks if max(self._rows_of([task])) < len(self._rows)]

    def see(self, tasks: Iterable[str]) -> None:
        super().see(tasks)
        self._grow(max(self._rows_of(self.seen), default=-1) + 1)

    def make_room(self, stored: Mapping[str, Sequence[int]]) -> None:
        """Give the head as many rows as a saved adapter has."""
        self._grow(max(shape[0] for name, shape in stored.items() if name.endswith(f".{self._rows.name}.weight")))

    def _grow(self, rows: int) -> None:
        names = [*self._row_of_name]
        if rows > len(self._rows):
            self._rows.add(names[len(self._rows) : rows])
            self._name_rows(names[:rows])

    def _name_rows(self, names: Iterable[str]) -> None:
        config = self.base.config
        config.id2label = dict(enumerate(names))
        config.label2id = {name: row for row, name in config.id2label.items()}
        self.base.num_labels = len(config.id2label)

    @property
    def _rows(self) -> Rows:
        return Rows(self.base, self._head[-1], self._seed)

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        rows = [[self._row[pair]] for pair in zip(tasks, answers, strict=True)]
        return {"input_ids": self._prompt_ids(prompts), "labels": rows}

    def probe(self, answers: Sequence[str] = (), tasks: Sequence[str] = ()) -> Batch:
        task, label = next(iter(self._row))
        return super().probe([label] * 2, [task] * 2)

    def collator(self) -> Collator:
        def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = self.pad(example["input_ids"] for example in examples)
            return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}

        return collate

    def logits(self, outputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """z(x), with `CLOSED` in the rows that are closed: batch × 1 × rows.

        Args:
            labels: the row of each example's gold label: batch × 1.
        """
        logits: torch.Tensor = outputs["logits"][:, None]
        return logits.masked_fill(~self._open(labels), CLOSED)

    def logits_of_tasks(
        self, outputs: Mapping[str, Any], labels: torch.Tensor, tasks: Sequence[str]
    ) -> list[torch.Tensor]:
        """The logits of the tasks' rows: batch × rows, in one tensor with `shared` heads, else in one per task."""
        heads = [tasks] if self.objective.heads == "shared" else [[task] for task in tasks]
        return [outputs["logits"][:, self._rows_of(head)] for head in heads]

    def _open(self, labels: torch.Tensor) -> torch.Tensor:
        """Which rows are open for examples with these gold labels: bool, batch × 1 × rows, or the same rows for all."""
        rows = len(self._rows)
        if self.objective.heads == "per_task":
            tasks = self._task_of_row[:rows].to(labels.device)
            return tasks[labels][..., None] == tasks
        seen = torch.zeros(rows, dtype=torch.bool)
        seen[self._rows_of(self.seen)] = True
        return seen.to(labels.device)

    def _rows_of(self, tasks: Iterable[str]) -> list[int]:
        return sorted({row for (task, _), row in self._row.items() if task in set(tasks)})

    @torch.inference_mode()
    def answer(self, prompts: Sequence[str], task: Task, *, rank: bool = False, max_new_tokens: int = 50) -> list[str]:
        """The label whose row is largest, of those that are open when the task is tested.

        Raises:
            ModelError: the head has no row for one of the task's labels.
        """
        rows = self._rows_to_test(task)
        return [self._label[rows[best]] for best in self._logits(prompts, rows).argmax(dim=1).tolist()]

    @torch.inference_mode()
    def scores(self, prompts: Sequence[str], task: Task) -> list[dict[str, float]]:
        """softmax over the rows that are open when the task is tested."""
        rows = self._rows_to_test(task)
        labels = [self._label[row] for row in rows]
        return [dict(zip(labels, row, strict=True)) for row in self._logits(prompts, rows).softmax(dim=1).tolist()]

    def _logits(self, prompts: Sequence[str], rows: Sequence[int]) -> torch.Tensor:
        """z(x) of these rows: float32, prompts × rows."""
        batch = self.pad(self.prompt_ids(prompts))
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        with self._rows.with_more([*self._row_of_name][len(self._rows) : max(rows) + 1]):
            logits: torch.Tensor = self.model(**inputs).logits.float()
        return logits[:, rows]

    def _rows_to_test(self, task: Task) -> list[int]:
        own = [_name(self.objective, task.name, label) for label in task.labels or ()]
        unknown = next((name for name in own if name not in self._row_of_name), None)
        if unknown is not None:
            raise ModelError(f"task '{task.name}': the model's head has no row for '{unknown}', so it cannot answer it")
        rows = {self._row_of_name[name] for name in own}
        return sorted(rows if self.objective.heads == "per_task" else rows.union(self._rows_of(self.seen)))
