"""What every source of examples is: a section of the recipe that says what it lacks on this machine, and is read.

A source is one file of ``clkit/tasks/sources/``, which holds one subclass of `SourceSection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from clkit.errors import DataError
from clkit.section import Section
from clkit.tasks.records import Records
from clkit.tasks.rows import Columns, ReadRows, Source

TEXT = (
    "Column that holds the input, or a template with columns in braces "
    "(`sentence 1: {premise}`) where the input is made of several."
)
MESSAGES = (
    "Instead of `text` and `label`, the column of conversations: lists of turns with `role` and `content`. The last "
    "assistant's turn is the answer (mostly `answers: free`), what is before it the input."
)

#: So many records of a file are read to see whether it is of use, before anything is loaded.
BEGINNING = 100


@dataclass(frozen=True)
class Wanted:
    """What a task wants of its source.

    Attributes:
        labels: the source must say which labels there are, if it has a place for them; the recipe does not.
        plain_text: only the texts are wanted, so that neither labels nor answers are needed.
    """

    task: str
    labels: bool = True
    plain_text: bool = False


class SourceSection(Section):
    """Where a task's examples come from. Subclasses make of `kind` a `Literal` with their name."""

    #: Its place among the sources in the schema and in messages; those with the same are sorted by name.
    rank: ClassVar[int] = 100
    kind: str
    missing: list[str] = Field(
        [],
        description='What stands where there is no gold label, beside empty cells and null: `["-", "-1"]`. Such rows '
        "are left out and counted.",
    )
    on_bad_record: Literal["error", "drop"] = Field(
        "error",
        description="What to do with a record that holds no example (broken JSON, an empty text, a role that is "
        "unknown, ...): stop, with its file and line, or `drop` and count it.",
    )

    @property
    def unlabelled(self) -> str | None:
        """The key that would name the answers, where the source has none, so that only pretraining can use it."""
        return None

    @property
    def holds_conversations(self) -> bool:
        """Whether inputs and answers are turns of conversations, which pretraining cannot use."""
        return False

    def lacks(self, wanted: Wanted) -> list[str]:
        """One line, which begins with the key, for each file or folder that is not there or begins wrongly."""
        return []

    def read(self, wanted: Wanted) -> Source:
        """The rows of the task.

        Raises:
            DataError: they cannot be read; says where.
        """
        raise NotImplementedError

    def columns(
        self,
        wanted: Wanted,
        text: str | None,
        label: str | None,
        messages: str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Columns:
        """The columns that are wanted."""
        return Columns(text, None if wanted.plain_text else label, messages, self.missing, names)

    def rows(self, records: Records, columns: Columns, origin: str) -> ReadRows:
        """The rows that these records hold.

        Raises:
            DataError: a record holds no example and is not to be dropped, or none is left.
        """
        return ReadRows(records, columns, origin, drop=self.on_bad_record == "drop")

    def faults(self, key: str, path: Path, read: Callable[[int | None], object]) -> list[str]:
        """What `lacks` says of a file: that it is not there, or what is wrong where it begins.

        Args:
            read: the file, or so many of its records.
        """
        if not path.exists():
            return [f"{key}: no file '{path}'"]
        try:
            read(BEGINNING if self.on_bad_record == "error" else None)
        except DataError as error:
            return [f"{key}: {error}"]
        return []


def refuse_beside_messages(messages: str | None, **given: object) -> None:
    """Check that a column of conversations is not named beside others.

    Raises:
        ValueError: it is.
    """
    useless = next((key for key, value in given.items() if value is not None), None)
    if messages is not None and useless is not None:
        raise ValueError(f"{useless}: messages: {messages} holds input and answer; remove one of the two")
