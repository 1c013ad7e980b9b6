"""What a task is scored at by who knows nothing of its texts: below that, nothing was learned of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from clkit.results.kinds import Row
from clkit.results.scores import Answers

#: `uniform`: guesses, each label as often. `majority`: the most frequent training label as answer to everything.
Guess = Literal["uniform", "majority"]

#: By each metric: the scores of both, one per task, null where a task's answers are free.
Chance = dict[str, dict[Guess, Row]]


def task_chance(labels: Sequence[str], trained: Sequence[str], gold: Sequence[str]) -> dict[str, dict[Guess, float]]:
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


def chance_rows(of_tasks: Sequence[dict[str, dict[Guess, float]]]) -> Chance | None:
    """The same of all tasks; a task without labels has none of its own. None where no task has."""
    return {
        metric: {guess: [own[metric][guess] if own else None for own in of_tasks] for guess in guesses}
        for metric, guesses in next((own for own in of_tasks if own), {}).items()
    } or None
