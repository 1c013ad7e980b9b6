"""Decides which rows of a source are used: gold labels, the validation split, limits. All draws are seeded."""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Collection, Sequence

from clkit.errors import DataError
from clkit.section import did_you_mean
from clkit.tasks.rows import Rows

_MOST_INFERRED = 50
#: What public data sets put where a gold label is missing (SNLI and MNLI "-", the hidden test splits of GLUE -1), and
#: the labels beside which it is one itself: signs and numbers.
_MAY_BE_MISSING = {"-": re.compile(r"[+-]+"), "-1": re.compile(r"-?\d+(\.\d+)?")}


def gold_labels(rows: Rows, indices: Sequence[int], labels: Collection[str], task: str) -> list[str]:
    """The labels of these rows, surrounding white space dropped.

    Raises:
        DataError: a row has a label that is not one of ``labels``.
    """
    found = []
    for index in indices:
        label = (rows.answers[index] or "").strip()
        if label not in labels:
            hint = did_you_mean(label, labels)
            advice = "" if hint else "; list it in source.missing where it stands for no label"
            known = f"(labels of task '{task}': {', '.join(labels)})"
            raise DataError(f"{rows.where(index)}: unknown label '{label}'{hint} {known}{advice}")
        found.append(label)
    return found


def infer_labels(rows: Rows, indices: Sequence[int], task: str) -> tuple[str, ...]:
    """The distinct labels of the training rows, sorted.

    Raises:
        DataError: there are too many for labels, or fewer than two, or one may say that there is none.
    """
    distinct = sorted({(rows.answers[index] or "").strip() for index in indices})
    if len(distinct) > _MOST_INFERRED:
        raise DataError(
            f"task '{task}': {len(distinct)} distinct training labels look like free text; "
            "set answers: free, or list the labels"
        )
    if len(distinct) < 2:
        raise DataError(
            f"task '{task}': all training rows have the label '{distinct[0]}'; list the labels, or set answers: free"
        )
    for label, kin in _MAY_BE_MISSING.items():
        if label in distinct and not any(kin.fullmatch(other) for other in distinct if other != label):
            raise DataError(
                f"task '{task}': '{label}' stands among the labels {', '.join(distinct)}; where it says that there is "
                "none, list it in source.missing, else list the labels"
            )
    return tuple(distinct)


class Draw:
    """Draws rows of one split of one task at random: the same ones on every machine, in every process.

    Only `random.random` is used, the one method whose stream Python promises never to change.
    """

    def __init__(self, seed: int, task: str, split: str) -> None:
        self._rng = random.Random(f"{seed}/{task}/{split}")

    def sample(self, indices: Sequence[int], count: int) -> list[int]:
        """``count`` of the rows (all, where there are fewer), in their original order."""
        if count >= len(indices):
            return list(indices)
        numbered = ((self._rng.random(), index) for index in indices)
        return sorted(index for _, index in heapq.nsmallest(count, numbered))

    def per_label(self, groups: dict[str, list[int]], counts: dict[str, int]) -> list[int]:
        """``counts[label]`` of the rows of each label, in their original order."""
        # Sorted, so that the draw does not depend on which label stands first in the data.
        return sorted(index for label in sorted(groups) for index in self.sample(groups[label], counts[label]))


def by_label(indices: Sequence[int], labels: dict[int, str]) -> dict[str, list[int]]:
    """The rows of each label."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(labels[index], []).append(index)
    return groups


def carve_validation(
    indices: Sequence[int], labels: dict[int, str] | None, share: float, draw: Draw, task: str
) -> tuple[list[int], list[int]]:
    """Part the training rows into training and validation rows; every label keeps its share, as far as rows can.

    Raises:
        DataError: there are too few rows to part.
    """
    if len(indices) < 2:
        raise DataError(f"task '{task}': a single training row leaves none for validation; set validation_share to 0")
    count = min(max(1, round(share * len(indices))), len(indices) - 1)
    if labels is None:
        validation = draw.sample(indices, count)
    else:
        groups = by_label(indices, labels)
        validation = draw.per_label(groups, _apportion({label: len(group) for label, group in groups.items()}, count))
    held_out = set(validation)
    return [index for index in indices if index not in held_out], validation


def _apportion(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Share ``count`` among labels in proportion to their sizes, by largest remainders."""
    total = sum(sizes.values())
    parts = {label: count * size // total for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: (-(count * sizes[label] % total), label))
    parts.update({label: parts[label] + 1 for label in by_remainder[: count - sum(parts.values())]})
    return parts


def limit(
    indices: Sequence[int], labels: dict[int, str] | None, per_label: int | None, per_task: int | None, draw: Draw
) -> list[int]:
    """At most ``per_label`` rows of each label, and of those at most ``per_task``."""
    kept = list(indices)
    if per_label is not None and labels is not None:
        groups = by_label(kept, labels)
        kept = draw.per_label(groups, dict.fromkeys(groups, per_label))
    return kept if per_task is None else draw.sample(kept, per_task)
