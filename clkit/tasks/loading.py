"""Makes tasks of recipes: reads the source, decides which rows are used, and only then reads their texts."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from clkit.draws import sample, seeded
from clkit.errors import DataError
from clkit.results.answers import refuse_equal
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.source import Rows
from clkit.tasks.stored import BATCH, stored, string_features
from clkit.tasks.task import Split, Task
from clkit.wording import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset


#: The label of each row that is used, by its index.
Labels = Mapping[int, str] | Sequence[str]
#: Rows of a source, those of them that are used, and their labels.
_Used = tuple[Rows, Sequence[int], Labels | None]


def load_task(recipe: TaskRecipe, data: DataSection, seed: int, *, plain_text: bool = False) -> Task:
    """One task, limited as ``data`` says. The same seeds give the same rows on every machine.

    Args:
        seed: of the draw of training rows; the others are drawn by the seed of ``data``.
        plain_text: the text of every row is wanted, and answers are not; the task has none.

    Raises:
        DataError: the data cannot be read, does not fit the labels, or nothing is left of it.
    """
    chosen = choose_rows(recipe, data, seed, plain_text=plain_text)
    return Task(
        name=recipe.name,
        group=recipe.group or recipe.name,
        instruction=recipe.instruction,
        labels=chosen.labels,
        options=recipe.options,
        drops=recipe.source.on_bad_record == "drop",
        train=_dataset(*chosen.train),
        validation=None if chosen.validation is None else _dataset(*chosen.validation),
        test=_dataset(*chosen.test),
        dropped=chosen.dropped,
    )


def load_finished(
    recipe: TaskRecipe,
    labels: Sequence[str] | None,
    data: DataSection,
    seed: int,
    *,
    tested_on: Split,
    plain_text: bool = False,
) -> Task:
    """As `load_task`, a task that nobody learns again: its training data may be gone, and the task then has none.

    Args:
        labels: that the task had when it was learned; None where answers are free.

    Raises:
        DataError: as `load_task`, and where the data that are gone hold the rows to be tested on.
    """
    source = recipe.source.of_tests()
    if source is None:
        return load_task(recipe, data, seed, plain_text=plain_text)
    if tested_on == "validation":
        raise DataError(
            f"task '{recipe.name}': {recipe.source.place('train')} is gone, and evaluation.split: validation tests on "
            "a share of its rows; put it back, or test on rows of their own (`clkit eval RUN evaluation.split=test`)"
        )
    tests = recipe.model_copy(update={"source": source, "labels": recipe.labels if labels is None else [*labels]})
    task = load_task(tests, data, seed, plain_text=plain_text)
    return replace(task, train=task.train.select(range(0)), validation=None)


def load_further(recipe: TaskRecipe, most: int, seed: int, *, plain_text: bool) -> Task:
    """Data that are trained on beside the tasks' own, as a task of free answers without a test split.

    Args:
        most: rows, drawn at random.
        plain_text: texts are wanted, without answers.

    Raises:
        DataError: they cannot be read, or nothing is left of them.
    """
    split = further_rows(recipe, plain_text=plain_text)
    rows, used = split.rows, Draw(seed, recipe.name, "train").sample(split.indices, most)
    return Task(
        name=recipe.name,
        group=recipe.name,
        instruction=None,
        labels=None,
        drops=recipe.source.on_bad_record == "drop",
        train=_dataset(rows, used, None),
        test=_dataset(rows, [], None),
        dropped=split.dropped,
    )


def further_rows(recipe: TaskRecipe, *, plain_text: bool) -> _Split:
    """The rows that `load_further` draws from.

    Raises:
        DataError: as `load_further`.
    """
    rows = recipe.source.read(recipe.wanted(plain_text=plain_text, tested=False)).train
    return _Split("train", rows, recipe.name, plain_text)


class Chosen(NamedTuple):
    """The rows of a task that are used, of each split with the label of each row; None where answers are free."""

    labels: tuple[str, ...] | None
    train: _Used
    validation: _Used | None
    test: _Used
    dropped: dict[str, int]


def choose_rows(recipe: TaskRecipe, data: DataSection, seed: int, *, plain_text: bool = False) -> Chosen:
    """Which rows `load_task` takes. The texts of a data set are not read for it, and no heavy library is loaded.

    The validation split is taken from all training rows before the limits, so that it does not change with them.

    Raises:
        DataError: as `load_task`.
    """
    free = recipe.answers == "free" or plain_text
    if free and data.train_per_label is not None:
        raise DataError(f"task '{recipe.name}': free-form answers have no labels; use data.train_per_task")
    source = recipe.source.read(recipe.wanted(plain_text=plain_text))
    declared = None if free else tuple(recipe.labels or source.labels or ())
    train = _Split("train", source.train, recipe.name, plain_text)
    assert source.test is not None
    test = _Split("test", source.test, recipe.name, plain_text)
    labels = declared if free or declared else infer_labels(train.rows, train.indices, recipe.name)
    if labels is not None and len(labels) < 2:
        raise DataError(f"task '{recipe.name}': '{labels[0]}' is its only label, so each answer is right; name more")
    refuse_equal(labels or (), recipe.name)
    train_labels, test_labels = train.label(labels), test.label(labels)

    def draw(split: str) -> Draw:
        return Draw(seed if split == "train" else data.seed, recipe.name, split)

    kept: Sequence[int] = train.indices
    validation: Sequence[int] | None = None
    if data.validation_share:
        kept, validation = carve_validation(kept, train_labels, data.validation_share, draw("validation"), recipe.name)
    kept = limit(kept, train_labels, data.train_per_label, data.train_per_task, draw("train"))
    tested = limit(test.indices, test_labels, None, data.test_per_task, draw("test"))
    return Chosen(
        labels,
        (source.train, kept, train_labels),
        None if validation is None else (source.train, validation, train_labels),
        (source.test, tested, test_labels),
        train.dropped | test.dropped,
    )


class _Split:
    """The rows of one split that are used: those that have an answer or, of plain text, all."""

    def __init__(self, name: str, rows: Rows, task: str, plain_text: bool) -> None:
        self.rows, self.task = rows, task
        answered = (index for index, answer in enumerate(rows.answers) if plain_text or answer is not None)
        self.indices = array("q", answered)  # of millions of rows a list would take five times as much
        unlabelled = len(rows.answers) - len(self.indices)
        if not self.indices:
            raise DataError(
                f"task '{task}': nothing is left of the {name} split: {unlabelled} rows, none with a gold label; "
                "choose a split that has labels"
            )
        left_out = {name: unlabelled, f"unusable {name}": rows.unusable}
        self.dropped = {which: count for which, count in left_out.items() if count}

    def label(self, labels: tuple[str, ...] | None) -> list[str] | None:
        """The label of each row, empty where it has none, or None for free-form answers."""
        if labels is None:
            return None
        found = [""] * len(self.rows.answers)
        for index, label in zip(self.indices, gold_labels(self.rows, self.indices, labels, self.task), strict=True):
            found[index] = label
        return found


def _dataset(rows: Rows, indices: Sequence[int], labels: Labels | None) -> Dataset:
    def columns(some: Sequence[int]) -> dict[str, Sequence[str | None]]:
        answers = [rows.answers[index] if labels is None else labels[index] for index in some]
        turns = rows.turns(some)
        said = {} if turns is None else {"turns": turns}
        return {"text": rows.texts(some), "answer": answers, **said, "place": [rows.where(index) for index in some]}

    batches = (columns(indices[start : start + BATCH]) for start in range(0, len(indices), BATCH))
    return stored(batches, string_features(*columns([])))


_MOST_INFERRED = 50
#: What public data sets put where a gold label is missing (SNLI and MNLI "-", the hidden test splits of GLUE -1), and
#: the labels beside which it is one itself: signs and numbers.
_MAY_BE_MISSING = {"-": re.compile(r"[+-]+"), "-1": re.compile(r"-?\d+(\.\d+)?")}


def gold_labels(rows: Rows, indices: Sequence[int], labels: Collection[str], task: str) -> list[str]:
    """The labels of these rows, surrounding white space dropped.

    Raises:
        DataError: a row has a label that is not one of ``labels``.
    """
    kept = {label: label for label in labels}  # each label is kept once, not once for each row
    found = []
    for label, index in zip(_stripped(rows, indices), indices, strict=True):
        if label not in kept:
            hint = did_you_mean(label, labels)
            advice = "" if hint else "; list it in source.missing where it stands for no label"
            known = f"(labels of task '{task}': {', '.join(labels)})"
            raise DataError(f"{rows.where(index)}: unknown label '{label}'{hint} {known}{advice}")
        found.append(kept[label])
    return found


def _stripped(rows: Rows, indices: Sequence[int]) -> Iterator[str]:
    return ((rows.answers[index] or "").strip() for index in indices)


def infer_labels(rows: Rows, indices: Sequence[int], task: str) -> tuple[str, ...]:
    """The distinct labels of the training rows, sorted.

    Raises:
        DataError: there are too many for labels, or fewer than two, or one may say that there is none.
    """
    number = len({hash(label) for label in _stripped(rows, indices)})  # texts would fill the memory with long ones
    if number > _MOST_INFERRED:
        raise DataError(
            f"task '{task}': {number} distinct training labels look like free text; "
            "set answers: free, or list the labels"
        )
    distinct = sorted(set(_stripped(rows, indices)))
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
        self._rng = seeded(seed, task, split)

    def sample(self, indices: Sequence[int], count: int) -> Sequence[int]:
        """``count`` of the rows (all, where there are fewer), in their original order."""
        if count >= len(indices):
            return indices
        return [indices[place] for place in sample(len(indices), count, self._rng)]

    def per_label(self, groups: Mapping[str, Sequence[int]], counts: dict[str, int]) -> list[int]:
        """``counts[label]`` of the rows of each label, in their original order."""
        # Sorted, so that the draw does not depend on which label stands first in the data.
        return sorted(index for label in sorted(groups) for index in self.sample(groups[label], counts[label]))


def by_label(indices: Sequence[int], labels: Labels) -> Mapping[str, Sequence[int]]:
    """The rows of each label."""
    groups: dict[str, array[int]] = {}
    for index in indices:
        groups.setdefault(labels[index], array("q")).append(index)
    return groups


def carve_validation(
    indices: Sequence[int], labels: Labels | None, share: float, draw: Draw, task: str
) -> tuple[Sequence[int], Sequence[int]]:
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
    return array("q", (index for index in indices if index not in held_out)), validation


def _apportion(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Share ``count`` among labels in proportion to their sizes, by largest remainders."""
    total = sum(sizes.values())
    parts = {label: count * size // total for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: (-(count * sizes[label] % total), label))
    parts.update({label: parts[label] + 1 for label in by_remainder[: count - sum(parts.values())]})
    return parts


def limit(
    indices: Sequence[int], labels: Labels | None, per_label: int | None, per_task: int | None, draw: Draw
) -> Sequence[int]:
    """At most ``per_label`` rows of each label, and of those at most ``per_task``."""
    kept = indices
    if per_label is not None and labels is not None:
        groups = by_label(kept, labels)
        kept = draw.per_label(groups, dict.fromkeys(groups, per_label))
    return kept if per_task is None else draw.sample(kept, per_task)
