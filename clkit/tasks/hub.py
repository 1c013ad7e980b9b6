"""Reads a task from a data set of the Hugging Face hub, or from a local folder of data files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clkit.errors import DataError
from clkit.recipe.task_recipe import HubSource
from clkit.tasks.rows import NO_LABEL, Source, Template, answer_text, check_columns

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000

OTHER_SOURCES = (
    "without the hub: benchmark.folder=PATH (CL_Benchmark layout), source: {kind: files, ...}, "
    "or `clkit train quickstart` (nothing to download)"
)


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set, which stays on disk: only the column of labels is read whole."""

    dataset: Dataset
    name: str
    template: Template
    label: str
    label_names: dict[int | str, str] | None

    @cached_property
    def answers(self) -> Sequence[str | None]:
        import datasets

        if not isinstance(self.dataset.features[self.label], datasets.Value | datasets.ClassLabel):
            raise DataError(f"{self.name}: '{self.label}' holds lists or objects; name a column of text or numbers")
        column = self.dataset.data.column(self.label).combine_chunks().dictionary_encode()
        # Each distinct value is named once; in millions of rows there are a handful of them.
        names = [self._name(value) for value in column.dictionary.to_pylist()]
        return [None if code is None else names[code] for code in column.indices.to_pylist()]

    def texts(self, indices: Sequence[int]) -> list[str]:
        wanted = self.dataset.select_columns(list(self.template.columns)).select(indices)
        texts: list[str] = []
        for batch in wanted.iter(batch_size=_BATCH):
            for values in zip(*(batch[column] for column in self.template.columns), strict=True):
                row = dict(zip(self.template.columns, values, strict=True))
                texts.append(self.template.render(row, self.where(indices[len(texts)])))
        return texts

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"

    def _name(self, value: Any) -> str | None:
        text = answer_text(value, self.name, self.label)
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
        raise DataError(
            f"{self.name}: '{self.label}' holds {value!r}, which label_names does not name (it names: {known})"
        )


def read_hub(source: HubSource) -> Source:
    """The task in that data set, downloaded where it is not in the cache.

    Raises:
        DataError: the data set, its configuration or a split cannot be loaded, or lacks a column.
    """
    train = _rows(source, source.train_split)
    test = _rows(source, source.test_split)
    return Source(train, test, tuple(dict.fromkeys(train.label_names.values())) if train.label_names else None)


def _rows(source: HubSource, split: str) -> HubRows:
    name = f"{source.dataset} ({source.config})" if source.config else source.dataset
    name += f", split '{split}'"
    dataset = _load(source, split, name)
    template = Template(source.text)
    check_columns(dataset.column_names, (*template.columns, source.label), name)
    return HubRows(dataset, name, template, source.label, _label_names(source, dataset))


def _load(source: HubSource, split: str, name: str) -> Dataset:
    import datasets

    try:
        dataset = datasets.load_dataset(source.dataset, source.config, split=split, revision=source.revision)
    except Exception as error:  # no narrower: network, disk and parsers below share no base class
        unreachable = isinstance(error, OSError)
        reason = " ".join(str(error if unreachable else error.__cause__ or error).split())
        advice = f"; {OTHER_SOURCES}" if unreachable else ""
        raise DataError(f"{name}: cannot be loaded ({reason}){advice}") from error
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(f"{name}: names several splits; give one")
    return dataset


def _label_names(source: HubSource, dataset: Dataset) -> dict[int | str, str] | None:
    names: Iterable[str] | dict[int | str, str] | None = source.label_names
    if names is None:
        names = getattr(dataset.features.get(source.label), "names", None)
    if names is None or isinstance(names, dict):
        return names
    return dict(enumerate(names))
