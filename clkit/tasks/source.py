"""What every source of examples is: a section of the recipe that says what it lacks on this machine, and gives rows.

A source is one file of ``clkit/tasks/sources/``, which holds one subclass of `SourceSection`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from clkit.errors import DataError
from clkit.section import Section
from clkit.tasks.conversations import NO_TURNS, Example, read_conversation
from clkit.tasks.records import Records, Template, answer_text, blank, check_columns, kind_of_value
from clkit.tasks.stored import Pages, shared


class Rows(Protocol):
    """One split of a source, in the source's order.

    Answers come first because they decide which rows are used; of millions of rows only the texts of those few hundred
    that a limit leaves are ever read.
    """

    @property
    def answers(self) -> list[str | None] | Pages[str | None]:
        """The answer of each row; None where it has none."""

    @property
    def unusable(self) -> int:
        """How many records were dropped because they hold no example (`source.on_bad_record`)."""

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
        """Where that row stands: file and line, record or row; or data set, split and row. All count from 1."""


@dataclass(frozen=True)
class Source:
    """What a source holds of a task.

    Attributes:
        test: None where it was not wanted.
        labels: None where the source does not say which labels there are.
    """

    train: Rows
    test: Rows | None
    labels: tuple[str, ...] | None = None


class Columns:
    """The columns that hold an example: a conversation, or a text and its answer.

    Args:
        text: a column, or a template with columns in braces.
        label: None where the texts alone are wanted, which may then be empty, as documents may.
        missing: answers that say that there is none.
        names: of the labels, by what stands in the column.
    """

    def __init__(
        self,
        text: str | None,
        label: str | None,
        messages: str | None = None,
        missing: Collection[str] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.template = Template(str(text), may_be_empty=label is None)
        self.label = label
        self.messages = messages
        self.names = names
        self._none = frozenset(missing)
        own = self.template.columns if messages is None else (messages,)
        self.needed = own if label is None or messages is not None else (*own, label)

    def read(self, record: Any, where: str) -> Example:
        """The example in a record.

        Raises:
            DataError: the record does not hold one.
        """
        if isinstance(record, DataError):
            raise record
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: the record is {kind_of_value(record)}, not an object; correct or remove it")
        if len(record) == 1:
            self._refuse_list(record, where)
        check_columns(record, self.needed, where)
        if self.messages is not None:
            example = read_conversation(record[self.messages], where, self.messages)
            return example._replace(answer=self.answer(example.answer, where))
        text = self.template.render(record, where)
        return Example(text, None if self.label is None else self.answer(record[self.label], where), NO_TURNS)

    def _refuse_list(self, record: Mapping[str, Any], where: str) -> None:
        """Refuse a record that is a list of records, or a conversation that no column was named for."""
        ((name, value),) = record.items()
        first = value[0] if isinstance(value, list) and value else None
        if name in self.needed or not isinstance(first, Mapping):
            return
        if all(column in first for column in self.needed):
            raise DataError(f"{where}: the records stand in '{name}'; write that list alone into the file")
        if {"role", "content"} <= first.keys() or {"from", "value"} <= first.keys():
            raise DataError(f"{where}: '{name}' seems to hold a conversation; set source.messages: {name}")

    def answer(self, value: Any, where: str) -> str | None:
        """The answer that a value of the label column stands for; None where it stands for none.

        Raises:
            DataError: it is no text or number, or has no name though labels have names.
        """
        text = answer_text(value, where, str(self.label))
        if text is None or blank(text) or text.strip() in self._none:
            return None
        spellings = [text, text.lower(), str(int(value))] if isinstance(value, bool) else [text]
        key = next((one for one in spellings if self.names and one in self.names), text)
        if self.names is None or (key not in self.names and text in self.names.values()):
            return text
        if key not in self.names:
            raise DataError(
                f"{where}: '{self.label}' holds {value!r}, which label_names does not name (it names: "
                f"{', '.join(self.names)}); name it, or list it in source.missing where it stands for no label"
            )
        return self.names[key]


class ReadRows:
    """Rows that were read completely; what is more than a few is on disk.

    Args:
        origin: of the records, as errors name it.
        drop: leave out what holds no example, and count it.
    """

    def __init__(self, records: Records, columns: Columns, origin: str, *, drop: bool = False) -> None:
        self._rows: Pages[tuple[str, str, str]] = Pages()  # each a text, its turns and its place
        self._conversations = columns.messages is not None
        self._dropped: DataError | None = None
        self.unusable = 0
        self.answers = shared(self._read(records, columns, drop))
        if not len(self._rows):
            raise self._dropped or DataError(f"{origin}: no records; it must hold at least one")

    def _read(self, records: Records, columns: Columns, drop: bool) -> Iterator[str | None]:
        """The answer of each row, which is kept without it."""
        for place, record in records:
            try:
                text, answer, turns = columns.read(record, place)
            except DataError as error:
                if not drop:
                    raise
                self.unusable += 1
                self._dropped = self._dropped or error
                continue
            self._rows.append((text, turns, place))
            yield answer

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [self._rows[index][0] for index in indices]

    def turns(self, indices: Sequence[int]) -> list[str] | None:
        return [self._rows[index][1] for index in indices] if self._conversations else None

    def where(self, index: int) -> str:
        return self._rows[index][2]


TEXT = (
    "Column that holds the input, or a template with columns in braces "
    "(`sentence 1: {premise}`) where the input is made of several."
)
MESSAGES = (
    "Instead of `text` and `label`, the column of conversations: lists of turns with `role` and `content`. The last "
    "assistant's turn is the answer (mostly `answers: free`), what is before it the input."
)

LABEL_NAMES = "Names of the values in the label column: a list indexed by number, or a mapping."
LabelNames = list[str] | dict[int | str, str] | None

#: So many records of a file are read to see whether it is of use, before anything is loaded.
BEGINNING = 100


@dataclass(frozen=True)
class Wanted:
    """What a task wants of its source.

    Attributes:
        labels: the source must say which labels there are, if it has a place for them; the recipe does not.
        plain_text: only the texts are wanted, so that neither labels nor answers are needed.
        tested: the test split is wanted too.
    """

    task: str
    labels: bool = True
    plain_text: bool = False
    tested: bool = True


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
    def untested(self) -> str | None:
        """Where the source has no test split, so that it can be no task's: the key at fault and the reason."""
        return None

    @property
    def holds_conversations(self) -> bool:
        """Whether inputs and answers are turns of conversations, which pretraining cannot use."""
        return getattr(self, "messages", None) is not None

    def lacks(self, wanted: Wanted) -> list[str]:
        """One line, which begins with the key, for each file or folder that is not there or begins wrongly."""
        return []

    def of_tests(self) -> SourceSection | None:
        """The same with its tests in the place of training data that are gone from this machine; None if none are."""
        return None

    def place(self, split: str) -> str:
        """Where the rows of a split lie, or the `labels`, as errors name it; validation rows are training rows."""
        return self.kind

    def size(self) -> int | None:
        """Bytes of the files on this machine that hold all rows; None where they are elsewhere."""
        return None

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
            return [f"{key}: no file '{path}'; put it there, or write the path of yours"]
        try:
            read(BEGINNING if self.on_bad_record == "error" else None)
        except DataError as error:
            return [f"{key}: {error}"]
        return []


def names_by_value(names: LabelNames) -> dict[str, str] | None:
    """The names of labels by what stands for them in a column, as text."""
    if names is None:
        return None
    return {str(value): name for value, name in (names.items() if isinstance(names, dict) else enumerate(names))}


def refuse_beside_messages(messages: str | None, **given: object) -> None:
    """Check that a column of conversations is not named beside others.

    Raises:
        ValueError: it is.
    """
    useless = next((key for key, value in given.items() if value is not None), None)
    if messages is not None and useless is not None:
        raise ValueError(f"{useless}: messages: {messages} holds input and answer; remove one of the two")
