"""Reads a task from a data set of the Hugging Face hub, or from a local folder of data files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from clkit.errors import DataError
from clkit.section import HubOrFolder
from clkit.tasks.records import Records, check_columns, csv_records, json_records
from clkit.tasks.source import (
    BEGINNING,
    LABEL_NAMES,
    MESSAGES,
    TEXT,
    Columns,
    LabelNames,
    Rows,
    Source,
    SourceSection,
    Wanted,
    names_by_value,
    refuse_beside_messages,
)
from clkit.tasks.stored import FULL, Pages, in_batches, shared

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

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
    label_names: LabelNames = Field(None, description=f"{LABEL_NAMES} Without it the data set's own names are used.")

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

    def lacks(self, wanted: Wanted) -> list[str]:
        folder = Path(self.dataset)
        if not folder.is_absolute():
            return []
        if fault := _no_folder(folder):
            return [f"dataset: {fault}"]

        def beginning(split: str) -> Callable[[int | None], object]:
            def read(most: int | None) -> None:
                rows, _ = self._rows(split, wanted, most)
                rows.texts(range(min(len(rows.answers), BEGINNING)))

            return read

        splits = dict.fromkeys(self._splits(wanted))
        found = (fault for split in splits for fault in self.faults("dataset", folder, beginning(split)))
        return list(dict.fromkeys(found))  # both may be parts of one split

    def place(self, split: str) -> str:
        return self.dataset

    def size(self) -> int | None:
        folder = Path(self.dataset)
        return sum(file.stat().st_size for file in folder.rglob("*")) if folder.is_absolute() else None

    def read(self, wanted: Wanted) -> Source:
        """The rows, downloaded where they are not in the cache."""
        if Path(self.dataset).is_absolute() and (fault := _no_folder(Path(self.dataset))):
            raise DataError(f"tasks.{wanted.task}.source.dataset: {fault}")
        (train, names), *test = (self._rows(split, wanted) for split in self._splits(wanted))
        labels = tuple(dict.fromkeys(names.values())) if names else None
        return Source(train, next((rows for rows, _ in test), None), labels)

    def _splits(self, wanted: Wanted) -> tuple[str, ...]:
        return (self.train_split, self.test_split) if wanted.tested else (self.train_split,)

    def _rows(self, split: str, wanted: Wanted, most: int | None = None) -> tuple[Rows, dict[str, str] | None]:
        """The rows of a split, and the names of its labels.

        Args:
            most: so many rows from the split's beginning are wanted, of which a part may be named.
        """
        import datasets

        name = f"{self.dataset} ({self.config})" if self.config else self.dataset
        name += f", split '{split}'"
        which = {"path": self.dataset, "name": self.config, "revision": self.revision}
        builder = _loaded(name, lambda: datasets.load_dataset_builder(**which))
        names = names_by_value(self.label_names)
        if _is_text(builder):
            columns = self.columns(wanted, self.text, self.label, self.messages, names)
            records = _loaded(name, lambda: _as_written(builder, split if most is None else _whole(split), columns))
            return self.rows(islice(records, most), columns, name), names
        dataset = _loaded(
            name, lambda: datasets.load_dataset(**which, split=split) if most is None else _begun(builder, split, most)
        )
        if not isinstance(dataset, datasets.Dataset):
            raise DataError(f"{name}: names several splits; give one")
        feature = dataset.features.get(str(self.label))
        own = self.label_names is None and isinstance(feature, datasets.ClassLabel)
        names = names_by_value(feature.names) if own else names
        source = self.model_copy(update={"missing": [*self.missing, "-1"]}) if own else self  # as `ClassLabel` has it
        columns = source.columns(wanted, self.text, self.label, self.messages, names)
        check_columns(dataset.column_names, columns.needed, name)
        rows: Rows = HubRows(dataset, name, columns)
        if self.messages is not None or self.on_bad_record == "drop":
            # Only the rows themselves say which of them hold an example, so that all are read.
            kept = dataset.select_columns(list(columns.needed))
            rows = self.rows(((rows.where(row), record) for row, record in enumerate(kept)), columns, name)
        return rows, names


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set, which stays on disk: only of the column of labels all is read, where there is one."""

    dataset: Dataset
    name: str
    columns: Columns
    unusable: int = 0

    @cached_property
    def answers(self) -> list[str | None] | Pages[str | None]:
        import datasets

        label = self.columns.label
        if label is None:
            return [None] * len(self.dataset)
        if not isinstance(self.dataset.features[label], datasets.Value | datasets.ClassLabel):
            raise DataError(f"{self.name}: '{label}' holds lists or objects; name a column of text or numbers")
        return shared(self._named(label))

    def _named(self, label: str) -> Iterator[str | None]:
        for chunk in self.dataset.data.column(label).chunks:
            coded = chunk.dictionary_encode()
            # Each distinct value of a chunk is named once; in a thousand rows there are a handful of them.
            names = [self.columns.answer(value, self.name) for value in coded.dictionary.to_pylist()]
            yield from (None if code is None else names[code] for code in coded.indices.to_pylist())

    def texts(self, indices: Sequence[int]) -> list[str]:
        rows = self.dataset.select_columns(list(self.columns.template.columns)).select(indices)
        records = (
            dict(zip(batch, row, strict=True))
            for batch in in_batches(rows)
            for row in zip(*batch.values(), strict=True)
        )
        return [
            self.columns.template.render(one, self.where(index)) for index, one in zip(indices, records, strict=True)
        ]

    def turns(self, indices: Sequence[int]) -> None:
        return None

    def where(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"


def _no_folder(folder: Path) -> str | None:
    """What to say where the folder of a data set is none."""
    if folder.is_dir():
        return None
    if folder.exists():
        return f"'{folder}' is a file; read files with source: {{kind: files, train: ..., test: ...}}"
    return f"no folder '{folder}'"


def _whole(split: str) -> str:
    """The first split that is named, without the part of it.

    Raises:
        ValueError: it is no name of a split.
    """
    import datasets

    datasets.ReadInstruction.from_spec(split)
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()


def _begun(builder: DatasetBuilder, split: str, most: int) -> Dataset:
    """The first rows of a split; the others are not read."""
    import datasets

    stream = builder.as_streaming_dataset(split=_whole(split))
    return datasets.Dataset.from_list(list(islice(stream, most)), features=stream.features)


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    """What ``load`` loads of a data set.

    Raises:
        DataError: it cannot be loaded.
    """
    try:
        return load()
    except DataError:
        raise
    except Exception as error:  # no narrower: network, disk and parsers below share no base class
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and (cause.errno in FULL or "Not enough disk space" in str(cause)):
            import datasets

            raise DataError(
                f"{name}: {datasets.config.HF_DATASETS_CACHE} has no room for it; make some, or set HF_DATASETS_CACHE "
                "to a folder that has more"
            ) from error
        unreachable = isinstance(error, OSError) and not Path(name).is_absolute()
        reason = " ".join(str(error if unreachable else cause).split())
        advice = f"; {OTHER_SOURCES}" if unreachable else ""
        raise DataError(f"{name}: cannot be loaded ({reason}){advice}") from error


def _is_text(builder: DatasetBuilder) -> bool:
    """Whether a data set is CSV or JSON files of which nobody says how to read them.

    `datasets` would guess: `01` becomes 1, `None` and `NA` null, a date a time, and the labels of a CSV file whose
    records have a field more than its header become the texts.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig
    from datasets.packaged_modules.json.json import JsonConfig

    config: Any = builder.config
    if builder.info.features is not None or not isinstance(config, CsvConfig | JsonConfig):
        return False
    general = {field.name for field in fields(datasets.BuilderConfig)} | {"sep", "delimiter"}
    return all(getattr(config, field.name) == field.default for field in fields(config) if field.name not in general)


def _as_written(builder: DatasetBuilder, split: str, columns: Columns) -> Records:
    """The records of a split of a data set of CSV or JSON files."""
    import datasets

    files = {str(one): list(paths) for one, paths in dict(builder.config.data_files or {}).items()}
    manager = datasets.DownloadManager()

    def records(one: str) -> Records:
        for name, local in zip(files[one], manager.download_and_extract(files[one]), strict=True):
            for path in manager.iter_files(local):
                sep = getattr(builder.config, "sep", None)
                file = Path(path)
                yield from csv_records(file, columns.needed, sep, name) if sep else json_records(file, name)

    if split in files:
        return records(split)
    sizes = {one: sum(1 for _ in records(one)) if one in split else 0 for one in files}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    return (record for part in parts for record in islice(records(part.splitname), part.from_, part.to))
