"""Reads a task from a data set of the Hugging Face hub, or from a local folder of data files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from clkit.errors import DataError
from clkit.section import HubOrFolder
from clkit.tasks.conversations import Example
from clkit.tasks.rows import Columns, Source
from clkit.tasks.source import MESSAGES, TEXT, SourceSection, Wanted, refuse_beside_messages
from clkit.tasks.values import NO_LABEL, answer_text, check_columns

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000

OTHER_SOURCES = (
    "without the hub: benchmark.folder=PATH (CL_Benchmark layout), source: {kind: files, ...}, "
    "or `clkit train quickstart` (nothing to download)"
)


class HubSource(SourceSection):
    """A data set of the Hugging Face hub."""

    rank: ClassVar[int] = 2
    kind: Literal["hub"] = Field(description="A data set of the Hugging Face hub.")
    dataset: HubOrFolder = Field(
        description="Name on the hub, for example `fancyzhx/ag_news`, or a local folder of data files."
    )
    config: str | None = Field(None, description="Configuration (subset) of the data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of the data set.")
    train_split: str = Field("train", description="Split to train on, or a part of one: `train[:20%]`.")
    test_split: str = Field(
        "test", description="Split to test on; `train[95%:]` where there is none, and `train[:95%]` to train on."
    )
    text: str | None = Field(None, description=TEXT)
    label: str | None = Field(
        None, description="Column that holds the label or the answer; null for pretraining, which reads none."
    )
    messages: str | None = Field(None, description=MESSAGES)
    label_names: list[str] | dict[int | str, str] | None = Field(
        None,
        description="Names of the values in the label column: a list indexed by number, or a mapping. "
        "Without it the data set's own names are used.",
    )

    @model_validator(mode="after")
    def _has_one_kind_of_input(self) -> HubSource:
        if self.text is None and self.messages is None:
            raise ValueError("text: missing; name the column that holds the input, or that of conversations: messages")
        refuse_beside_messages(self.messages, text=self.text, label=self.label, label_names=self.label_names)
        if self.revision is not None and Path(self.dataset).is_absolute():
            raise ValueError(f"revision: '{self.dataset}' is a folder, and revisions are on the hub; remove it")
        return self

    @property
    def unlabelled(self) -> str | None:
        return "label" if self.label is None and self.messages is None else None

    @property
    def holds_conversations(self) -> bool:
        return self.messages is not None

    def missing(self, wanted: Wanted) -> list[str]:
        local = Path(self.dataset).is_absolute()
        return [f"dataset: no folder '{self.dataset}'"] if local and not Path(self.dataset).is_dir() else []

    def read(self, wanted: Wanted) -> Source:
        """The rows, downloaded where they are not in the cache."""
        columns = Columns(self.text, None if wanted.plain_text else self.label, self.messages)
        train, test = (self._rows(split, columns) for split in (self.train_split, self.test_split))
        names = train.label_names
        return Source(train, test, tuple(dict.fromkeys(names.values())) if names else None)

    def _rows(self, split: str, columns: Columns) -> HubRows:
        dataset, name = _load(self, split)
        check_columns(dataset.column_names, columns.needed, name)
        names = None if columns.label is None else _label_names(self, dataset, columns.label)
        return HubRows(dataset, name, columns, names)


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set, which stays on disk: only the column of labels is read whole, where there is one.

    Of conversations all are read for their answers, of which there are many.
    """

    dataset: Dataset
    name: str
    columns: Columns
    label_names: dict[int | str, str] | None

    @cached_property
    def answers(self) -> Sequence[str | None]:
        import datasets

        label = self.columns.label
        if self.columns.messages is not None:
            return [example.answer for example in self._examples(range(len(self.dataset)))]
        if label is None:
            return [None] * len(self.dataset)
        if not isinstance(self.dataset.features[label], datasets.Value | datasets.ClassLabel):
            raise DataError(f"{self.name}: '{label}' holds lists or objects; name a column of text or numbers")
        column = self.dataset.data.column(label).combine_chunks().dictionary_encode()
        # Each distinct value is named once; in millions of rows there are a handful of them.
        names = [self._name(value, label) for value in column.dictionary.to_pylist()]
        return [None if code is None else names[code] for code in column.indices.to_pylist()]

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [example.text for example in self._examples(indices)]

    def turns(self, indices: Sequence[int]) -> list[str] | None:
        return None if self.columns.messages is None else [example.turns for example in self._examples(indices)]

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"

    def _examples(self, indices: Sequence[int]) -> Iterator[Example]:
        rows = self.dataset.select_columns(list(self.columns.needed)).select(indices)
        places = iter(indices)
        for batch in rows.iter(batch_size=_BATCH):
            for values in zip(*batch.values(), strict=True):
                yield self.columns.read(dict(zip(batch, values, strict=True)), self.where(next(places)))

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
