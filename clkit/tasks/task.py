"""A task, ready to be learned and tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Task:
    """One task of the sequence.

    Attributes:
        labels: the possible answers in the order of the prompt; None where answers are free-form, or there are none.
        train, validation, test: data sets with the string columns `text` (the input), `answer` (null of plain text)
            and `place` (where the row stands in the data), and of conversations `turns`: what was said before the
            input, as a JSON list of {role, content}.
        drops: whether rows that hold no example are left out and counted.
        options: whether the labels stand in the prompt.
        dropped: how many rows were left out, by split: without a gold label, and `unusable train` or `unusable test`.
    """

    name: str
    group: str
    instruction: str | None
    labels: tuple[str, ...] | None
    train: Dataset
    test: Dataset
    validation: Dataset | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    drops: bool = False
    options: bool = True

    def split(self, name: Split) -> Dataset:
        """The data set of that split.

        Raises:
            ValueError: the task has no validation split (`data.validation_share` is 0).
        """
        dataset = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if dataset is None:
            raise ValueError(f"task '{self.name}' has no {name} split; set data.validation_share")
        return dataset
