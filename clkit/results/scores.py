"""What a test of one task gives: answers or likelihoods of single examples, and the scores that follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from clkit.errors import ClkitError
from clkit.results.answers import normalise
from clkit.results.kinds import OUTSIDE, RANKED

#: Nats per token whose exponential a float still holds, with room for a sum over tasks: e^700 is about 1e304.
LARGEST_LOSS = 700.0


class Tested(Protocol):
    """The outcome of testing a model on one task."""

    @property
    def task(self) -> str:
        """The task's name."""

    @property
    def examples(self) -> int:
        """How many examples were tested."""

    @property
    def scores(self) -> dict[str, float]:
        """Every score that follows from this test, by the name of its metric."""

    def records(self) -> Iterable[dict[str, Any]]:
        """One record per example, in the order of the data, for `predictions.jsonl`."""


def _records(
    task: str, rows: Sequence[Mapping[str, Any]], outcomes: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for index, outcome in enumerate(outcomes):
        yield {"task": task, "index": index, **(rows[index] if rows else {}), **outcome}


@dataclass(frozen=True)
class Answers:
    """What a model answered on one task, in the order of the data.

    Attributes:
        labels: the labels that the answers are to be; None where they are free.
        rows: of each example where it stands in the data and what it says, `place` and `text`, for the records.
        ranked: the likeliest label of each example, where the predictions were generated and these are wanted too.
    """

    task: str
    predictions: Sequence[str]
    gold: Sequence[str]
    labels: Sequence[str] | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    ranked: Sequence[str] | None = None

    @property
    def examples(self) -> int:
        return len(self.gold)

    def records(self) -> Iterable[dict[str, Any]]:
        ranked = [{}] * self.examples if self.ranked is None else [{"ranked": label} for label in self.ranked]
        outcomes = (
            {"gold": gold, "prediction": prediction, "correct": normalise(prediction) == normalise(gold), **more}
            for prediction, gold, more in zip(self.predictions, self.gold, ranked, strict=True)
        )
        return _records(self.task, self.rows, outcomes)

    @property
    def exact_match(self) -> float:
        """The share of examples whose normalised prediction is the normalised answer."""
        return _agreement(self.predictions, self.gold)

    @property
    def outside_labels(self) -> float:
        """The share of predictions that are none of the labels; such a prediction is wrong."""
        known = {normalise(label) for label in self.labels or ()}
        return sum(normalise(prediction) not in known for prediction in self.predictions) / len(self.gold)

    @property
    def macro_f1(self) -> float:
        """mean_c F1(c), F1(c) = 2 TP / (2 TP + FP + FN), over the labels c that are gold or predicted at least once.

        A prediction that is none of the labels is a false negative of its gold label and no label's false positive.
        """
        pairs = [(normalise(p), normalise(g)) for p, g in zip(self.predictions, self.gold, strict=True)]
        known = {normalise(label) for label in self.labels or self.gold}
        found = sorted(known & {text for pair in pairs for text in pair})
        return fmean(
            2 * sum(p == g == label for p, g in pairs) / sum((p == label) + (g == label) for p, g in pairs)
            for label in found
        )

    @property
    def scores(self) -> dict[str, float]:
        answered = {"exact_match": self.exact_match}
        if self.labels is not None:
            answered |= {"macro_f1": self.macro_f1, OUTSIDE: self.outside_labels}
        return answered if self.ranked is None else {**answered, RANKED: _agreement(self.ranked, self.gold)}


def _agreement(predictions: Sequence[str], gold: Sequence[str]) -> float:
    return sum(normalise(p) == normalise(g) for p, g in zip(predictions, gold, strict=True)) / len(gold)


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
