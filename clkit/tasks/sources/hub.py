"""Reads a task from a data set of the Hugging Face hub, or from a local folder of data files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clkit.errors import DataError
from clkit.tasks.conversations import Conversation, read_conversation
from clkit.tasks.rows import NO_LABEL, Source, Template, answer_text, check_columns
from clkit.tasks.sections import HubSource

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000

OTHER_SOURCES = (
    "without the hub: benchmark.folder=PATH (CL_Benchmark layout), source: {kind: files, ...}, "
    "or `clkit train quickstart` (nothing to download)"
)


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set, which stays on disk: only the column of labels is read whole. Without one, none is."""

    dataset: Dataset
    name: str
    template: Template
    label: str | None
    label_names: dict[int | str, str] | None

    @cached_property
    def answers(self) -> Sequence[str | None]:
        import datasets

        if self.label is None:
            return [None] * len(self.dataset)
        if not isinstance(self.dataset.features[self.label], datasets.Value | datasets.ClassLabel):
            raise DataError(f"{self.name}: '{self.label}' holds lists or objects; name a column of text or numbers")
        column = self.dataset.data.column(self.label).combine_chunks().dictionary_encode()
        # Each distinct value is named once; in millions of rows there are a handful of them.
        names = [self._name(value, self.label) for value in column.dictionary.to_pylist()]
        return [None if code is None else names[code] for code in column.indices.to_pylist()]

    def texts(self, indices: Sequence[int]) -> list[str]:
        columns = self.template.columns
        rows = _read(self.dataset, columns, indices)
        return [self.template.render(row, self.where(index)) for index, row in zip(indices, rows, strict=True)]

    def turns(self, indices: Sequence[int]) -> None:
        return None

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"

    def _name(self, value: Any, label: str) -> str | None:
        text = answer_text(value, self.name, label)
        if self.label_names is None or text is None:
            return text
        for key in (value, text):  # a mapping in YAML may spell the number 0 as "0"
            if key in self.label_names:
                return self.label_names[key]
        if text in NO_LABEL:
            return None
        if value in self.label_names.values():  # a column of names
            return text
        known = ", ".join(map(str, self.label_names))
        raise DataError(f"{self.name}: '{label}' holds {value!r}, which label_names does not name (it names: {known})")


@dataclass(frozen=True)
class HubConversations:
    """Rows of a data set that holds conversations. All of them are read for their answers, of which there are many."""

    dataset: Dataset
    name: str
    column: str

    @cached_property
    def answers(self) -> Sequence[str | None]:
        return [conversation.answer for conversation in self._read(range(len(self.dataset)))]

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [conversation.text for conversation in self._read(indices)]

    def turns(self, indices: Sequence[int]) -> list[str]:
        return [conversation.turns for conversation in self._read(indices)]

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"

    def _read(self, indices: Sequence[int]) -> Iterator[Conversation]:
        for index, row in zip(indices, _read(self.dataset, [self.column], indices), strict=True):
            yield read_conversation(row[self.column], self.where(index), self.column)


def _read(dataset: Dataset, columns: Sequence[str], indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    """These columns of these rows."""
    for batch in dataset.select_columns(list(columns)).select(indices).iter(batch_size=_BATCH):
        for values in zip(*(batch[column] for column in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def read_hub(source: HubSource, *, plain_text: bool = False) -> Source:
    """The task in that data set, downloaded where it is not in the cache.

    Args:
        plain_text: the texts are wanted only, so that no label is read.

    Raises:
        DataError: the data set, its configuration or a split cannot be loaded, or lacks a column.
    """
    if source.messages is not None:
        return Source(_conversations(source, source.train_split), _conversations(source, source.test_split))
    train = _rows(source, source.train_split, plain_text)
    test = _rows(source, source.test_split, plain_text)
    return Source(train, test, tuple(dict.fromkeys(train.label_names.values())) if train.label_names else None)


def _rows(source: HubSource, split: str, plain_text: bool) -> HubRows:
    dataset, name = _load(source, split)
    template = Template(str(source.text), may_be_empty=plain_text)
    label = None if plain_text else source.label
    check_columns(dataset.column_names, template.columns if label is None else (*template.columns, label), name)
    names = None if label is None else _label_names(source, dataset, label)
    return HubRows(dataset, name, template, label, names)


def _conversations(source: HubSource, split: str) -> HubConversations:
    dataset, name = _load(source, split)
    column = str(source.messages)
    check_columns(dataset.column_names, [column], name)
    return HubConversations(dataset, name, column)


def _load(source: HubSource, split: str) -> tuple[Dataset, str]:
    """A split, and how errors name it."""
    import datasets

    name = f"{source.dataset} ({source.config})" if source.config else source.dataset
    name += f", split '{split}'"
    try:
        dataset = datasets.load_dataset(source.dataset, source.config, split=split, revision=source.revision)
    except Exception as error:  # no narrower: network, disk and parsers below share no base class
        unreachable = isinstance(error, OSError)
        reason = " ".join(str(error if unreachable else error.__cause__ or error).split())
        advice = f"; {OTHER_SOURCES}" if unreachable else ""
        raise DataError(f"{name}: cannot be loaded ({reason}){advice}") from error
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(f"{name}: names several splits; give one")
    return dataset, name


def _label_names(source: HubSource, dataset: Dataset, label: str) -> dict[int | str, str] | None:
    names: Iterable[str] | dict[int | str, str] | None = source.label_names
    if names is None:
        names = getattr(dataset.features.get(label), "names", None)
    if names is None or isinstance(names, dict):
        return names
    return dict(enumerate(names))
