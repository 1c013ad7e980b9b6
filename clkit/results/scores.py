"""What a test of one task gives: answers or likelihoods of single examples, and the scores that follow from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from clkit.errors import ClkitError
from clkit.results.answers import AS_EVER, UNFINISHED, Comparison, rouge_l, token_f1, words
from clkit.results.kinds import OUTSIDE, RANKED, Row

#: Nats per token whose exponential a float still holds, with room for a sum over tasks: e^700 is about 1e304.
LARGEST_LOSS = 700.0


Overlap = Callable[[Sequence[str], Sequence[str]], float]

#: Parts of a record that may quote the data where they are no labels.
_QUOTING = ("gold", "prediction", "ranked")


def _records(
    task: str, rows: Sequence[Mapping[str, Any]], outcomes: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for index, outcome in enumerate(outcomes):
        yield {"task": task, "index": index, **(rows[index] if rows else {}), **outcome}


def without_texts(record: Mapping[str, Any], labels: Collection[str]) -> dict[str, Any]:
    """A record without the texts of the data: neither the input, nor what is none of the task's labels."""
    said = {name: record[name] if record[name] in labels else None for name in _QUOTING if name in record}
    kept = {name: value for name, value in record.items() if name != "turns"}
    return {**kept, **({"text": None} if "text" in record else {}), **said}


@dataclass(frozen=True)
class Answers:
    """What a model answered on one task, in the order of the data.

    Attributes:
        labels: the labels that the answers are to be; None where they are free.
        rows: of each example where it stands in the data and what it says, `place` and `text`, for the records;
            with `turns`, what was said before it.
        ranked: the likeliest label of each example, where the predictions were generated and these are wanted too.
        by: how they are compared.
        overlap: whether to score how much of the right answer they hold where there are labels too.
    """

    task: str
    predictions: Sequence[str]
    gold: Sequence[str]
    labels: Sequence[str] | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    ranked: Sequence[str] | None = None
    by: Comparison = AS_EVER
    overlap: bool = False

    @property
    def examples(self) -> int:
        return len(self.gold)

    def records(self) -> Iterable[dict[str, Any]]:
        """One record per example, in the order of the data."""
        ranked = [{}] * self.examples if self.ranked is None else [{"ranked": label} for label in self.ranked]
        outcomes = (
            {"gold": gold, "prediction": prediction, "correct": self.by.same(prediction, gold), **more}
            for prediction, gold, more in zip(self.predictions, self.gold, ranked, strict=True)
        )
        return _records(self.task, self.rows, outcomes)

    @property
    def exact_match(self) -> float:
        """The share of examples whose prediction counts as the same as the answer."""
        return self._agreement(self.predictions)

    def _agreement(self, predictions: Sequence[str]) -> float:
        return fmean(self.by.same(*pair) for pair in zip(predictions, self.gold, strict=True))

    @property
    def token_f1(self) -> float:
        """The mean F1 of the tokens that an answer and the right one, both normalised, have in common."""
        return self._mean(token_f1, lambda answer: self.by.text(answer).split())

    @property
    def rouge_l(self) -> float:
        """The mean F1 of their longest common subsequences of words."""
        return self._mean(rouge_l, words)

    def _mean(self, of: Overlap, read: Callable[[str], list[str]]) -> float:
        pairs = zip(self.predictions, self.gold, strict=True)
        return fmean(of(read(prediction.removesuffix(UNFINISHED)), read(gold)) for prediction, gold in pairs)

    @property
    def outside_labels(self) -> float:
        """The share of predictions that are none of the labels; such a prediction is wrong."""
        known = {self.by.key(label) for label in self.labels or ()}
        return sum(self.by.key(prediction) not in known for prediction in self.predictions) / len(self.gold)

    @property
    def macro_f1(self) -> float:
        """mean_c F1(c), F1(c) = 2 TP / (2 TP + FP + FN), over the labels c that are gold or predicted at least once.

        A prediction that is none of the labels is a false negative of its gold label and no label's false positive.
        """
        pairs = [(self.by.key(p), self.by.key(g)) for p, g in zip(self.predictions, self.gold, strict=True)]
        known = dict.fromkeys(self.by.key(label) for label in self.labels or self.gold)
        found = [label for label in known if any(label in pair for pair in pairs)]
        return fmean(
            2 * sum(p == g == label for p, g in pairs) / sum((p == label) + (g == label) for p, g in pairs)
            for label in found
        )

    @property
    def scores(self) -> dict[str, float]:
        """Every score that follows from the answers, by the name of its metric."""
        answered = {"exact_match": self.exact_match}
        if self.labels is not None:
            answered |= {"macro_f1": self.macro_f1, OUTSIDE: self.outside_labels}
        if self.labels is None or self.overlap:
            answered |= {"token_f1": self.token_f1, "rouge_l": self.rouge_l}
        return answered if self.ranked is None else {**answered, RANKED: self._agreement(self.ranked)}


@dataclass(frozen=True)
class Likelihoods:
    """How likely a model found the texts or answers of one task.

    Attributes:
        nll: −log p of each example in nats, summed over its tokens.
        tokens: how many tokens of each example were predicted.
        rows: as of `Answers`; a block of text has the place of the row that it begins in.
    """

    task: str
    nll: Sequence[float]
    tokens: Sequence[int]
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def examples(self) -> int:
        return len(self.nll)

    def records(self) -> Iterable[dict[str, Any]]:
        outcomes = ({"nll": nll, "tokens": tokens} for nll, tokens in zip(self.nll, self.tokens, strict=True))
        return _records(self.task, self.rows, outcomes)

    @property
    def loss(self) -> float:
        """Σ −log p / Σ tokens, over all examples of the task, in nats per token; NaN where there are no tokens."""
        return math.fsum(self.nll) / sum(self.tokens) if sum(self.tokens) else math.nan

    @property
    def scores(self) -> dict[str, float]:
        """The loss, and the perplexity, which is its exponential; beyond `LARGEST_LOSS` it grows no more.

        Raises:
            ClkitError: the loss is not finite, or there is none.
        """
        if not sum(self.tokens):
            raise ClkitError(f"task '{self.task}': its examples hold no token to predict; give longer texts")
        if not math.isfinite(self.loss):
            raise ClkitError(
                f"the loss on task '{self.task}' is {self.loss}: the model's outputs are not finite; lower "
                "training.learning_rate, or use precision: fp32"
            )
        return {"perplexity": math.exp(min(self.loss, LARGEST_LOSS)), "loss": self.loss}


#: The outcome of testing a model on one task.
Tested = Answers | Likelihoods

#: `uniform`: guesses, each label as often. `majority`: the most frequent training label as answer to everything.
Guess = Literal["uniform", "majority"]

#: By each metric: the scores of both, one per task, null where a task's answers are free.
Chance = dict[str, dict[Guess, Row]]


def task_chance(labels: Sequence[str], trained: Iterable[str], gold: Sequence[str]) -> dict[str, dict[Guess, float]]:
    """The scores of both guesses on one task, by metric.

    Uniform, exact match is 1/K, K the number of labels. Macro-F1 is that of the counts to be expected: of n examples
    n_c have the label c, n/K are said to, and n_c/K are both, hence F1(c) = (2 n_c / K) / (n/K + n_c).

    Args:
        labels: of which two that are as frequent in training are chosen from in this order.
        trained: the answers that the task is trained on.
        gold: those that it is tested on.
    """
    often, tested, n, K = Counter(trained), Counter(gold), len(gold), len(labels)  # noqa: N806
    most_frequent = max(labels, key=lambda label: often[label])
    majority = Answers("", [most_frequent] * n, gold, labels)
    expected = [2 * tested[label] / K / (n / K + tested[label]) for label in labels]
    return {
        "exact_match": {"uniform": 1 / K, "majority": majority.exact_match},
        "macro_f1": {"uniform": sum(expected) / K, "majority": majority.macro_f1},
    }


def chance_of(chance: Chance | None, place: int) -> dict[str, dict[Guess, float]]:
    """What `chance_rows` was given for the task at that place; nothing for one without labels."""
    own = {
        metric: {guess: value for guess, values in guesses.items() if (value := values[place]) is not None}
        for metric, guesses in (chance or {}).items()
    }
    return {metric: guesses for metric, guesses in own.items() if guesses}


def chance_rows(of_tasks: Sequence[dict[str, dict[Guess, float]]]) -> Chance | None:
    """The same of all tasks; a task without labels has none of its own. None where no task has."""
    return {
        metric: {guess: [own[metric][guess] if own else None for own in of_tasks] for guess in guesses}
        for metric, guesses in next((own for own in of_tasks if own), {}).items()
    } or None
