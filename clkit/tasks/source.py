"""What every source of examples is: a section of the recipe that says what it lacks on this machine, and is read.

A source is one file of ``clkit/tasks/sources/``, which holds one subclass of `SourceSection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clkit.section import Section
from clkit.tasks.rows import Source

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
    """Where a task's examples come from. Subclasses add `kind`, a `Literal` with their name."""

    #: Its place among the sources in the schema and in messages; those with the same are sorted by name.
    rank: ClassVar[int] = 100

    @property
    def unlabelled(self) -> str | None:
        """The key that would name the answers, where the source has none, so that only pretraining can use it."""
        return None

    @property
    def holds_conversations(self) -> bool:
        """Whether inputs and answers are turns of conversations, which pretraining cannot use."""
        return False

    def missing(self, wanted: Wanted) -> list[str]:
        """One line, which begins with the key, for each file or folder that is not there or begins wrongly."""
        return []

    def read(self, wanted: Wanted) -> Source:
        """The rows of the task.

        Raises:
            DataError: they cannot be read; says where.
        """
        raise NotImplementedError


def refuse_beside_messages(messages: str | None, **given: object) -> None:
    """Check that a column of conversations is not named beside others.

    Raises:
        ValueError: it is.
    """
    useless = next((key for key, value in given.items() if value is not None), None)
    if messages is not None and useless is not None:
        raise ValueError(f"{useless}: messages: {messages} holds input and answer; remove one of the two")
