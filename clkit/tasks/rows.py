"""What every source of examples gives: rows whose answers are known at once and whose texts are read when wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clkit.tasks.conversations import NO_TURNS, Example, read_conversation
from clkit.tasks.values import Template, answer_text


class Rows(Protocol):
    """One split of a source, in the source's order.

    Answers come first because they decide which rows are used; of millions of rows only the texts of those few hundred
    that a limit leaves are ever read.
    """

    @property
    def answers(self) -> Sequence[str | None]:
        """The answer of each row; None where the source has none."""

    def texts(self, indices: Sequence[int]) -> list[str]:
        """The inputs of these rows.

        Raises:
            DataError: an input is missing, empty or no text.
        """

    def turns(self, indices: Sequence[int]) -> list[str] | None:
        """What was said before these inputs, as JSON lists of {role, content}; None where inputs are no conversations.

        Raises:
            DataError: a conversation is malformed.
        """

    def where(self, index: int) -> str:
        """Where that row stands, as an error names it: file and line, or data set, split and row."""


@dataclass(frozen=True)
class Source:
    """What a source holds of a task. ``labels`` is None where the source does not say which labels there are."""

    train: Rows
    test: Rows
    labels: tuple[str, ...] | None = None


class Columns:
    """The columns that hold an example: a conversation, or a text and its answer.

    Args:
        text: a column, or a template with columns in braces.
        label: None where the texts alone are wanted, which may then be empty, as documents may.
    """

    def __init__(self, text: str | None, label: str | None, messages: str | None = None) -> None:
        self.template = Template(str(text), may_be_empty=label is None)
        self.label = label
        self.messages = messages
        own = self.template.columns if messages is None else (messages,)
        self.needed = own if label is None or messages is not None else (*own, label)

    def read(self, record: Mapping[str, Any], where: str) -> Example:
        """The example in a record.

        Raises:
            DataError: the record does not hold one.
        """
        if self.messages is not None:
            return read_conversation(record[self.messages], where, self.messages)
        text = self.template.render(record, where)
        answer = None if self.label is None else answer_text(record[self.label], where, self.label)
        return Example(text, answer, NO_TURNS)


class ReadRows:
    """Rows that were read completely.

    Args:
        records: each with its number, from which ``where`` says its place.
    """

    def __init__(
        self, records: Iterable[tuple[int, Mapping[str, Any]]], columns: Columns, where: Callable[[int], str]
    ) -> None:
        self._numbers: list[int] = []
        self._examples: list[Example] = []
        for number, record in records:
            self._numbers.append(number)
            self._examples.append(columns.read(record, where(number)))
        self._where = where
        self._conversations = columns.messages is not None

    @property
    def answers(self) -> list[str | None]:
        return [example.answer for example in self._examples]

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [self._examples[index].text for index in indices]

    def turns(self, indices: Sequence[int]) -> list[str] | None:
        return [self._examples[index].turns for index in indices] if self._conversations else None

    def where(self, index: int) -> str:
        return self._where(self._numbers[index])
