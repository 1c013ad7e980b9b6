"""Rows that lie on disk, so that there may be more of them than memory holds.

They lie in files without a name, which are gone with the process, whatever ends it: nobody has to clear them away, and
none is ever half written.
"""

from __future__ import annotations

import errno
import marshal
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from clkit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import Table

T = TypeVar("T")

#: Rows that are in memory at once.
BATCH = 1000
#: So many different answers may be labels, which are kept in memory once each.
MOST_DISTINCT = 1000
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_maps: WeakSet[mmap.mmap] = WeakSet()


class Pages(Generic[T]):
    """A list of texts, numbers, None and tuples of them, on disk but for its last ones.

    It is read by pages, so that going through it in order is quick, and jumping to and fro is not.
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._file: IO[bytes] | None = None
        self._starts = array("Q", [0])
        self._last: list[T] = []
        self._page, self._read = -1, self._last
        for value in values:
            self.append(value)

    def append(self, value: T) -> None:
        self._last.append(value)
        if len(self._last) == BATCH:
            with _told_when_full():
                self._file = self._file or _unnamed_file()
                self._starts.append(self._starts[-1] + self._file.write(marshal.dumps(self._last)))
            self._last = []

    def __len__(self) -> int:
        return (len(self._starts) - 1) * BATCH + len(self._last)

    def __iter__(self) -> Iterator[T]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> T:
        page, place = divmod(index, BATCH)
        if page == len(self._starts) - 1:
            return self._last[place]
        if page != self._page:
            assert self._file is not None
            self._file.seek(self._starts[page])
            self._read = marshal.loads(self._file.read(self._starts[page + 1] - self._starts[page]))
            self._page = page
        return self._read[place]


def shared(values: Iterable[str | None]) -> list[str | None] | Pages[str | None]:
    """The values in their order, equal ones kept once; on disk where too many differ."""
    found: list[str | None] = []
    known: dict[str | None, str | None] = {}
    values = iter(values)
    for value in values:
        found.append(known.setdefault(value, value))
        if len(known) > MOST_DISTINCT:
            return Pages(chain(found, values))
    return found


def string_features(*columns: str) -> Features:
    """The types of columns of text."""
    import datasets

    return datasets.Features(dict.fromkeys(columns, datasets.Value("string")))


def stored(batches: Iterable[Mapping[str, Sequence[Any]]], features: Features | None = None) -> Dataset:
    """The rows of all batches as one data set, mapped from the disk; those of a single batch stay in memory.

    Args:
        batches: values by column.
        features: types of the columns; without them those of the first batch.
    """
    import pyarrow
    from datasets.arrow_writer import OptimizedTypedSequence

    batches = iter(batches)
    first = next(batches, None) or {name: [] for name in features or ()}
    # Of types that are not given, the narrowest are taken that tokens fit in.
    columns = first if features else {name: OptimizedTypedSequence(values, col=name) for name, values in first.items()}
    table = pyarrow.Table.from_pydict(columns, features.arrow_schema if features else None)
    second = next(batches, None)
    if second is None:
        return _dataset(table, features)
    schema = table.schema
    batches = chain([first, second], batches)
    del first, columns, second, table  # else they would stay in memory beside the batch that is being written
    with _told_when_full(), _unnamed_file() as file:
        with pyarrow.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_table(pyarrow.Table.from_pydict(batch, schema))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _maps.add(mapped)
    reader = pyarrow.ipc.open_stream(pyarrow.py_buffer(mapped))
    return _dataset(pyarrow.Table.from_batches(_let_go(reader), reader.schema), features)


def _dataset(table: Table, features: Features | None) -> Dataset:
    """Without a fingerprint all rows would be read and hashed for one; these are not looked up in any cache."""
    from datasets import Dataset, DatasetInfo
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table), DatasetInfo(features=features), fingerprint=generate_random_fingerprint())


def in_batches(dataset: Dataset, *columns: str) -> Iterator[dict[str, list[Any]]]:
    """The values of these columns (of all, where none is named), `BATCH` rows at a time.

    What was read of `stored` rows leaves memory again after each batch, on systems that can be told so.
    """
    rows = dataset.select_columns(list(columns)) if columns else dataset
    return _let_go(rows.iter(BATCH))


def _let_go(parts: Iterable[T]) -> Iterator[T]:
    """The parts one by one, after each of which what was read of the disk leaves memory."""
    for part in parts:
        yield part
        for mapped in _maps if hasattr(mmap, "MADV_DONTNEED") else ():
            mapped.madvise(mmap.MADV_DONTNEED)


def values(dataset: Dataset, column: str) -> Iterator[Any]:
    """The values of a column one by one, read as by `in_batches`."""
    return (value for batch in in_batches(dataset, column) for value in batch[column])


def token_counts(encoded: Dataset) -> Sequence[int]:
    """How many tokens each row of encoded examples has."""
    return array("q", map(len, values(encoded, "input_ids")))


def _unnamed_file() -> IO[bytes]:
    return tempfile.TemporaryFile(dir=_folder())


def _folder() -> str:
    """The folder that TMPDIR names, the cache of `datasets`, or where the system has such files, which may be in
    memory.
    """
    if "TMPDIR" not in os.environ:
        home = os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
        cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(home, "datasets"))).expanduser()
        if cache.is_dir() and os.access(cache, os.W_OK):
            return str(cache)
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:  # it tries several, and each is full or cannot be written
        raise DataError(f"{error.strerror}; set TMPDIR to a folder that can be written and has room") from error


@contextmanager
def _told_when_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"{_folder()} has no room for the rows that are read ({error.strerror}); make some, or set TMPDIR to a "
            "folder that has more"
        ) from error
