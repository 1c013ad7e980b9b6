"""Tests a model on tasks: by its answers, or by how likely it finds the right ones or plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn import functional

from clkit.events import Listener
from clkit.models.examples import Reading, Texts, encode, task_texts
from clkit.models.family import IGNORED, Family
from clkit.processes import processes
from clkit.results.kinds import OVERLAPS, UNBOUNDED, MetricName
from clkit.results.scores import Answers, Guess, Likelihoods, Tested, task_chance
from clkit.tasks.blocks import begins
from clkit.tasks.stored import token_counts, values
from clkit.tasks.task import Task
from clkit.testing.section import EvaluationSection

T = TypeVar("T")

#: A batch ends where the next example is shorter than this share of its longest: a small batch costs less than padding.
SIMILAR = 0.75
#: How many times as many examples a batch of short ones may have: what is written of each takes memory too.
MORE = 4


class Examination(Reading, Protocol):
    """What a recipe says of how its tasks are tested."""

    @property
    def evaluation(self) -> EvaluationSection: ...

    @property
    def metric(self) -> MetricName: ...


def batches_of_similar_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches, the longest first: if memory does not suffice, that shows at once.

    A batch has at most ``size`` examples or, of shorter ones, as many as have no more tokens than ``size`` of the
    longest, up to `MORE` times ``size``. Within it no length is below `SIMILAR` times its longest, so at most a quarter
    is padding.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    most = longest = 0
    for index in order:
        if batches and len(batches[-1]) < most and lengths[index] >= SIMILAR * longest:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
            most = min(size * lengths[order[0]] // max(longest, 1), MORE * size)
    return batches


@torch.no_grad()
def negative_log_likelihoods(family: Family, batch: Mapping[str, torch.Tensor]) -> list[tuple[float, int]]:
    """−log p of each example in nats, summed over its tokens, and how many tokens that are.

    Args:
        batch: of the family's collator.
    """
    inputs = {name: tensor.to(family.model.device) for name, tensor in batch.items()}
    labels = inputs.pop("labels")
    # One example after the other: the logits over a large vocabulary are most of the memory, and need no copy of all.
    measured = [
        functional.cross_entropy(own.float(), due, ignore_index=IGNORED, reduction="none").double().sum()
        for own, due in zip(family.logits(family.model(**inputs), labels), labels, strict=True)
    ]
    return list(zip(torch.stack(measured).tolist(), (labels != IGNORED).sum(dim=1).tolist(), strict=True))


class Examiner:
    """Tests a model on any of the tasks, as often as wanted; prompts are built once.

    Batches hold examples of similar length, so little is spent on padding. Processes share the batches of a task.

    Args:
        recipe: whose prompt, objective and evaluation are used.
        between_batches: called before each batch; it may raise, to stop the test there.
        texts: of the tasks' test examples, as far as they are made already.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        recipe: Examination,
        between_batches: Callable[[], None] = lambda: None,
        texts: Mapping[str, Texts] | None = None,
    ) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._recipe = recipe
        self._between_batches = between_batches
        self._texts = dict(texts or {})
        self._encoded: dict[str, Dataset] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def examples(self, family: Family, task_name: str) -> int:
        """How many examples the task has to be tested on; for pretraining these are blocks of text.

        They weigh a task in the micro average. Nearly all blocks have the same number of tokens, so of the loss it is
        the mean over all tasks' tokens.
        """
        task = self._tasks[task_name]
        if self._recipe.objective.kind == "pretraining":
            return len(self._encode(family, task))
        return len(task.split(self._recipe.evaluation.split))

    def chance(self, task_name: str) -> dict[str, dict[Guess, float]]:
        """What guesses would score on the task, by metric; nothing where it has no labels, or is not scored by them."""
        task = self._tasks[task_name]
        if task.labels is None or self._recipe.metric in UNBOUNDED:
            return {}
        return task_chance(
            task.labels, values(task.train, "answer"), task.split(self._recipe.evaluation.split)["answer"][:]
        )

    def test(self, family: Family, task_name: str, listener: Listener | None = None) -> Tested:
        """The outcome over every example of the task's test split: answers or, for a loss, their likelihoods."""
        listener = listener or Listener()
        task = self._tasks[task_name]
        # Before the first task, and outside training, nobody else has moved the model to the accelerator.
        family.model.to(processes().device).eval()
        if self._recipe.metric in UNBOUNDED:
            return self._likelihoods(family, task, listener)
        return self._answers(family, task, listener)

    def scores(self, family: Family, task_name: str, listener: Listener | None = None) -> list[dict[str, float]]:
        """The probability of each label, of every example of a task that has labels."""
        task = self._tasks[task_name]
        prompts = self._made(task, family).prompts
        family.model.to(processes().device).eval()
        return self._over_batches(
            [*map(len, family.prompt_ids(prompts))],
            lambda batch: family.scores([prompts[index] for index in batch], task),
            listener or Listener(),
        )

    def loss(self, family: Family, task_names: Sequence[str]) -> float:
        """Σ −log p / Σ tokens over the examples of all these tasks, in nats per token, whatever they are scored by."""
        family.model.to(processes().device).eval()
        found = [self._likelihoods(family, self._tasks[name], Listener()) for name in task_names]
        nll, tokens = ([number for one in found for number in getattr(one, of)] for of in ("nll", "tokens"))
        return Likelihoods("", nll, tokens).loss

    def _answers(self, family: Family, task: Task, listener: Listener) -> Answers:
        evaluation = self._recipe.evaluation
        prompts = self._made(task, family).prompts
        listener.evaluating(task.name, len(prompts))

        both = evaluation.answer == "both" and task.labels is not None

        def answer(batch: list[int]) -> list[tuple[str, str]]:
            some = [prompts[index] for index in batch]
            rank = evaluation.answer == "rank"
            first = family.answer(some, task, rank=rank, max_new_tokens=evaluation.max_new_tokens)
            return list(zip(first, family.answer(some, task, rank=True) if both else first, strict=True))

        answered = self._over_batches([*map(len, family.prompt_ids(prompts))], answer, listener)
        predictions, ranked = ([pair[way] for pair in answered] for way in (0, 1))
        return self._outcome(task, predictions, ranked if both else None)

    def _outcome(self, task: Task, predictions: Sequence[str], ranked: Sequence[str] | None) -> Answers:
        rows = task.split(self._recipe.evaluation.split)
        return Answers(
            task.name,
            predictions,
            rows["answer"][:],
            task.labels,
            self._traces(task.name, rows),
            ranked,
            self._recipe.evaluation.comparison,
            overlap=self._recipe.metric in OVERLAPS,
        )

    def read_back(self, task_name: str, records: Sequence[Mapping[str, Any]]) -> Answers | None:
        """What an earlier test of the task gave, by its records; None where they are not of the same examples, or are
        of no answers, or no longer hold them (`clkit forget-data`).
        """
        task = self._tasks[task_name]
        if self._recipe.metric in UNBOUNDED or not records:
            return None
        predictions, ranked = ([str(record.get(key)) for record in records] for key in ("prediction", "ranked"))
        found = self._outcome(task, predictions, ranked if "ranked" in records[0] else None)
        same = len(predictions) == found.examples and [*found.records()] == [*records]
        return found if same else None

    def _likelihoods(self, family: Family, task: Task, listener: Listener) -> Likelihoods:
        encoded = self._encode(family, task)
        listener.evaluating(task.name, len(encoded))
        collate = family.collator()

        def measure(batch: list[int]) -> list[tuple[float, int]]:
            rows = collate([encoded[index] for index in batch])
            return negative_log_likelihoods(family, rows)

        measured = self._over_batches(token_counts(encoded), measure, listener)
        rows = self._rows[task.name]
        return Likelihoods(task.name, [nll for nll, _ in measured], [tokens for _, tokens in measured], rows)

    def _encode(self, family: Family, task: Task) -> Dataset:
        """The task's examples as the model reads them."""
        if task.name not in self._encoded:
            texts = self._made(task, family)
            self._encoded[task.name] = encode(family, texts.examples)
            rows = task.split(self._recipe.evaluation.split)
            if self._recipe.objective.kind == "pretraining":
                answers = texts.answers
                begun = rows.select(begins(rows["text"][:], answers))
                rows = Dataset.from_dict({"place": begun["place"][:], "text": answers})
            self._traces(task.name, rows)
        return self._encoded[task.name]

    def _traces(self, name: str, rows: Dataset) -> list[dict[str, Any]]:
        """Where each row stands in the data, its text, and of a conversation what was said before."""
        if name not in self._rows:
            traces = rows.select_columns(["place", "text"]).to_list()
            if "turns" in rows.column_names:
                traces = [{**row, "turns": json.loads(turns)} for row, turns in zip(traces, rows["turns"], strict=True)]
            self._rows[name] = traces
        return self._rows[name]

    def _over_batches(self, tokens: Sequence[int], of: Callable[[list[int]], list[T]], listener: Listener) -> list[T]:
        """``of`` each batch of indices, put together in the order of the examples, which have so many tokens."""
        state = processes()
        batches = batches_of_similar_length(tokens, self._recipe.evaluation.batch_size)
        found: list[tuple[int, T]] = []
        for batch in batches[state.process_index :: state.num_processes]:
            self._between_batches()
            found += zip(batch, of(batch), strict=True)
            listener.answered(len(batch))
        if state.num_processes > 1:
            found = gather_object(found)
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    def _made(self, task: Task, family: Family) -> Texts:
        if task.name not in self._texts:
            self._texts[task.name] = task_texts(task, self._recipe.evaluation.split, family, self._recipe)
        return self._texts[task.name]
