"""What every source of examples gives: rows whose answers are known at once and whose texts are read when wanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clkit.errors import DataError
from clkit.tasks.conversations import NO_TURNS, Example, read_conversation
from clkit.tasks.records import Records
from clkit.tasks.values import Template, answer_text, check_columns, kind_of_value


class Rows(Protocol):
    """One split of a source, in the source's order.

    Answers come first because they decide which rows are used; of millions of rows only the texts of those few hundred
    that a limit leaves are ever read.
    """

    @property
    def answers(self) -> Sequence[str | None]:
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
        """Where that row stands: file and line, or data set, split and row."""


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
        self._none = {"", *missing}
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
        check_columns(record, self.needed, where)
        if self.messages is not None:
            example = read_conversation(record[self.messages], where, self.messages)
            return example._replace(answer=self.answer(example.answer, where))
        text = self.template.render(record, where)
        return Example(text, None if self.label is None else self.answer(record[self.label], where), NO_TURNS)

    def answer(self, value: Any, where: str) -> str | None:
        """The answer that a value of the label column stands for; None where it stands for none.

        Raises:
            DataError: it is no text or number, or has no name though labels have names.
        """
        text = answer_text(value, where, str(self.label))
        if text is None or text.strip() in self._none:
            return None
        key = str(int(value)) if self.names and isinstance(value, bool) else text
        if self.names is None or (key not in self.names and text in self.names.values()):
            return text
        if key not in self.names:
            raise DataError(
                f"{where}: '{self.label}' holds {value!r}, which label_names does not name (it names: "
                f"{', '.join(self.names)}); name it, or list it in source.missing where it stands for no label"
            )
        return self.names[key]


class ReadRows:
    """Rows that were read completely.

    Args:
        origin: of the records, as errors name it.
        drop: leave out what holds no example, and count it.
    """

    def __init__(self, records: Records, columns: Columns, origin: str, *, drop: bool = False) -> None:
        self._places: list[str] = []
        self._examples: list[Example] = []
        self._conversations = columns.messages is not None
        self.unusable = 0
        first = None
        for place, record in records:
            try:
                example = columns.read(record, place)
            except DataError as error:
                if not drop:
                    raise
                self.unusable += 1
                first = first or error
                continue
            self._places.append(place)
            self._examples.append(example)
        self.answers = [example.answer for example in self._examples]
        if not self._examples:
            raise first or DataError(f"{origin}: no records; it must hold at least one")

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [self._examples[index].text for index in indices]

    def turns(self, indices: Sequence[int]) -> list[str] | None:
        return [self._examples[index].turns for index in indices] if self._conversations else None

    def where(self, index: int) -> str:
        return self._places[index]
