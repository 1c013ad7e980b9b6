"""Makes tasks of recipes: reads the source, keeps the rows that are wanted, and only then their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from clkit.errors import DataError
from clkit.results.answers import refuse_equal
from clkit.tasks.rows import Rows
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.splits import Draw, carve_validation, gold_labels, infer_labels, limit
from clkit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


class _Objective(Protocol):
    @property
    def kind(self) -> str: ...


class TasksOfRecipe(Protocol):
    """What a recipe says of its tasks."""

    @property
    def seed(self) -> int: ...

    @property
    def data(self) -> DataSection: ...

    @property
    def objective(self) -> _Objective: ...

    def task_recipes(self) -> list[TaskRecipe]:
        """The tasks in the order of learning."""


def load_tasks(recipe: TasksOfRecipe) -> list[Task]:
    """The tasks of a recipe in the order of learning.

    Raises:
        DataError: a task's data cannot be read or does not fit its labels.
    """
    plain_text = recipe.objective.kind == "pretraining"
    return [load_task(task, recipe.data, recipe.seed, plain_text=plain_text) for task in recipe.task_recipes()]


def load_task(recipe: TaskRecipe, data: DataSection, seed: int, *, plain_text: bool = False) -> Task:
    """One task, limited as ``data`` says. The same seeds give the same rows on every machine.

    The validation split is taken from all training rows before the limits, so that it does not change with them.

    Args:
        seed: of the draw of training rows; the others are drawn by the seed of ``data``.
        plain_text: the text of every row is wanted, and answers are not; the task has none.

    Raises:
        DataError: the data cannot be read, does not fit the labels, or nothing is left of it.
    """
    free = recipe.answers == "free" or plain_text
    if free and data.train_per_label is not None:
        raise DataError(f"task '{recipe.name}': free-form answers have no labels; use data.train_per_task")
    source = recipe.source.read(recipe.wanted(plain_text=plain_text))
    declared = None if free else tuple(recipe.labels or source.labels or ())
    train = _Split("train", source.train, recipe.name, plain_text)
    test = _Split("test", source.test, recipe.name, plain_text)
    labels = declared if free or declared else infer_labels(train.rows, train.indices, recipe.name)
    refuse_equal(labels or (), recipe.name)
    train_labels, test_labels = train.label(labels), test.label(labels)

    def draw(split: str) -> Draw:
        return Draw(seed if split == "train" else data.seed, recipe.name, split)

    kept, validation = train.indices, None
    if data.validation_share:
        kept, validation = carve_validation(kept, train_labels, data.validation_share, draw("validation"), recipe.name)
    kept = limit(kept, train_labels, data.train_per_label, data.train_per_task, draw("train"))
    tested = limit(test.indices, test_labels, None, data.test_per_task, draw("test"))
    return Task(
        name=recipe.name,
        group=recipe.group or recipe.name,
        instruction=recipe.instruction,
        labels=labels,
        options=recipe.options,
        drops=recipe.source.on_bad_record == "drop",
        train=_dataset(source.train, kept, train_labels),
        validation=None if validation is None else _dataset(source.train, validation, train_labels),
        test=_dataset(source.test, tested, test_labels),
        dropped=train.dropped | test.dropped,
    )


class _Split:
    """The rows of one split that are used: those that have an answer or, of plain text, all."""

    def __init__(self, name: str, rows: Rows, task: str, plain_text: bool) -> None:
        self.rows, self.task = rows, task
        self.indices = [index for index, answer in enumerate(rows.answers) if plain_text or answer is not None]
        unlabelled = len(rows.answers) - len(self.indices)
        if not self.indices:
            raise DataError(
                f"task '{task}': nothing is left of the {name} split: {unlabelled} rows, none with a gold label; "
                "choose a split that has labels"
            )
        left_out = {name: unlabelled, f"unusable {name}": rows.unusable}
        self.dropped = {which: count for which, count in left_out.items() if count}

    def label(self, labels: tuple[str, ...] | None) -> dict[int, str] | None:
        """The label of each row by its index, or None for free-form answers."""
        if labels is None:
            return None
        return dict(zip(self.indices, gold_labels(self.rows, self.indices, labels, self.task), strict=True))


def _dataset(rows: Rows, indices: list[int], labels: dict[int, str] | None) -> Dataset:
    import datasets

    columns = {
        "text": rows.texts(indices),
        "answer": [rows.answers[index] if labels is None else labels[index] for index in indices],
        "turns": rows.turns(indices),
        "place": [rows.where(index) for index in indices],
    }
    given = {name: values for name, values in columns.items() if values is not None}
    features = datasets.Features(dict.fromkeys(given, datasets.Value("string")))
    return datasets.Dataset.from_dict(given, features=features)
