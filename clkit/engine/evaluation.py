"""Tests a model on tasks: greedy answers or ranked labels, scored by exact match."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from clkit.engine.events import Listener
from clkit.engine.processes import processes
from clkit.models.loading import LoadedModel
from clkit.recipe.sections import EvaluationSection, PromptSection
from clkit.tasks.prompts import build_prompt, fit_all
from clkit.tasks.task import Split, Task

#: A batch ends where the next example is shorter than this share of its longest: a small batch costs less than padding.
SIMILAR = 0.75

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as exact match compares it: lower case, no punctuation, single spaces."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


@dataclass(frozen=True)
class Answers:
    """What a model answered on one task, in the order of the data."""

    task: str
    predictions: Sequence[str]
    gold: Sequence[str]

    def records(self) -> Iterable[dict[str, Any]]:
        """One record per example, for `predictions.jsonl`."""
        for index, (prediction, gold) in enumerate(zip(self.predictions, self.gold, strict=True)):
            yield {
                "task": self.task,
                "index": index,
                "gold": gold,
                "prediction": prediction,
                "correct": normalise(prediction) == normalise(gold),
            }

    @property
    def score(self) -> float:
        """Exact match: the share of examples whose normalised prediction is the normalised answer."""
        correct = sum(bool(record["correct"]) for record in self.records())
        return correct / len(self.gold)


def task_prompts(task: Task, split: Split, tokenizer: Any, section: PromptSection) -> list[str]:
    """The prompts of a split, each shortened to fit."""
    texts = task.split(split)["text"]
    return fit_all([build_prompt(task, text, section) for text in texts], tokenizer, section.max_tokens)


def batches_of_similar_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of at most ``size``, the longest first: if memory does not suffice, that shows at once.

    Within a batch no length is below `SIMILAR` times the longest, so at most a quarter of it is padding.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        current = batches[-1] if batches else []
        if current and len(current) < size and lengths[index] >= SIMILAR * lengths[current[0]]:
            current.append(index)
        else:
            batches.append([index])
    return batches


class Examiner:
    """Tests a model on any of the tasks, as often as wanted; prompts are built once.

    Batches hold examples of similar length, so little is spent on padding; a task with labels is given as many new
    tokens as its longest label takes and no more. Processes share the batches of a task.

    Args:
        between_batches: called before each batch; it may raise, to stop the test there.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        evaluation: EvaluationSection,
        prompt: PromptSection,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._between_batches = between_batches
        self._evaluation = evaluation
        self._prompt = prompt
        self._prompts: dict[str, tuple[list[str], list[int]]] = {}

    def examples(self, task: str) -> int:
        """How many examples the task is tested on."""
        return len(self._tasks[task].split(self._evaluation.split))

    def test(self, loaded: LoadedModel, task_name: str, listener: Listener | None = None) -> Answers:
        """The model's answers to every example of the task's test split."""
        listener = listener or Listener()
        listener.evaluating(task_name, self.examples(task_name))
        task = self._tasks[task_name]
        prompts, lengths = self._prepare(task, loaded.tokenizer)
        batches = batches_of_similar_length(lengths, self._evaluation.batch_size)
        state = processes()
        answered: list[tuple[int, str]] = []
        # Before the first task, and outside training, nobody else has moved the model to the accelerator.
        loaded.model.to(state.device).eval()
        for batch in batches[state.process_index :: state.num_processes]:
            self._between_batches()
            answers = self._answer(loaded, task, [prompts[index] for index in batch])
            answered += zip(batch, answers, strict=True)
            listener.answered(len(batch))
        if state.num_processes > 1:
            answered = gather_object(answered)
        predictions = [prediction for _, prediction in sorted(answered)]
        return Answers(task.name, predictions, task.split(self._evaluation.split)["answer"][:])

    def _prepare(self, task: Task, tokenizer: Any) -> tuple[list[str], list[int]]:
        """The task's prompts, and the length of each in tokens."""
        if task.name not in self._prompts:
            prompts = task_prompts(task, self._evaluation.split, tokenizer, self._prompt)
            self._prompts[task.name] = prompts, [len(ids) for ids in tokenizer(prompts)["input_ids"]]
        return self._prompts[task.name]

    def _answer(self, loaded: LoadedModel, task: Task, prompts: list[str]) -> list[str]:
        family, model, tokenizer = loaded.family, loaded.model, loaded.tokenizer
        if task.labels is None:
            return family.generate(model, tokenizer, prompts, self._evaluation.max_new_tokens)
        if self._evaluation.answer == "rank":
            best = family.log_likelihood(model, tokenizer, prompts, task.labels).argmax(dim=1)
            return [task.labels[index] for index in best.tolist()]
        longest = max(family.answer_tokens(tokenizer, label) for label in task.labels)
        return family.generate(model, tokenizer, prompts, longest)
