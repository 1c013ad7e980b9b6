"""Rows on disk are those that were put there, leave nothing behind, and do not fill the memory."""

from __future__ import annotations

import errno
import heapq
import io
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from clkit.draws import sample
from clkit.engine.fingerprints import task_read
from clkit.engine.prepare import load_learner
from clkit.errors import DataError
from clkit.models.examples import encode, task_texts
from clkit.models.family import Family
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.tasks import stored as module
from clkit.tasks.stored import BATCH, MOST_DISTINCT, Pages, in_batches, shared, stored, string_features, values
from tests.toy import toy_recipe

SIZES = (0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files without a name are made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def batches(numbers: Iterable[int], size: int) -> Iterator[dict[str, list[Any]]]:
    rows = list(numbers)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield {"text": [f"é{number}" for number in some], "ids": [[number] * (1 + number % 4) for number in some]}


@pytest.mark.parametrize("size", SIZES)
def test_pages_are_the_list_that_they_were_made_of(size: int, folder: Path) -> None:
    expected = [(f"\ud800{number}", None, number) for number in range(size)]
    pages = Pages(expected)
    assert (len(pages), [*pages]) == (size, expected)
    for index in random.Random(1).choices(range(size), k=20) if size else ():
        assert pages[index] == expected[index]
    with pytest.raises(IndexError):
        pages[size]
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_stored_rows_are_those_of_one_table(size: int, folder: Path) -> None:
    found = stored(batches(range(20), size))
    expected = Dataset.from_dict(next(batches(range(20), 20)))
    assert found.features == expected.features
    assert found.to_list() == expected.to_list()
    assert found.select([19, 3, 3, 4])[:] == expected.select([19, 3, 3, 4])[:]
    assert [*values(found, "text")] == expected["text"][:]
    assert [*folder.iterdir()] == []


def test_no_rows_have_columns_all_the_same() -> None:
    assert stored([], string_features("a", "b")).column_names == ["a", "b"]


def test_reading_by_batches_gives_every_row_once_and_takes_no_memory_for_good() -> None:
    found = stored(batches(range(5 * BATCH), BATCH))
    assert [len(batch["ids"]) for batch in in_batches(found.select(range(4 * BATCH + 1)), "ids")] == [BATCH] * 4 + [1]
    assert [*values(found, "text")] == [f"é{number}" for number in range(5 * BATCH)]


def test_few_different_values_are_kept_once_and_many_on_disk() -> None:
    labels = shared(f"label {number % 3}" if number % 5 else None for number in range(99))
    assert labels == [f"label {number % 3}" if number % 5 else None for number in range(99)]
    assert len({id(label) for label in labels}) == 4
    texts = [f"text {number}" for number in range(MOST_DISTINCT + 5)]
    found = shared(iter(texts))
    assert isinstance(found, Pages)
    assert [*found] == texts


def test_a_killed_process_leaves_nothing(folder: Path) -> None:
    code = (
        "import os, signal\n"
        "from clkit.tasks.stored import Pages, stored\n"
        "pages = Pages(str(number) for number in range(2500))\n"
        "def batches():\n"
        "    yield {'a': ['x'] * 9}\n"
        "    yield {'a': ['x'] * 9}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "stored(batches())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [*folder.iterdir()] == []


class Full(io.RawIOBase):
    """A file on a disk without room."""

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "keep", [lambda: Pages(map(str, range(BATCH))), lambda: stored(batches(range(20), 7))], ids=["pages", "arrow"]
)
def test_a_full_disk_is_told_with_its_folder(
    keep: Callable[[], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_unnamed_file", Full)
    with pytest.raises(DataError) as full:
        keep()
    assert str(full.value) == (
        f"{folder} has no room for the rows that are read (No space left on device); make some, or set TMPDIR to a "
        "folder that has more"
    )


def test_no_folder_for_temporary_files_is_told_with_those_that_were_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(folder / "none")])
    with pytest.raises(DataError, match=rf"^No usable temporary directory found in \['{folder}/none'\]; set TMPDIR to"):
        Pages(map(str, range(BATCH)))


@given(st.integers(0, 60), st.integers(0, 70), st.integers(0, 9), st.sampled_from([0, 1, 3]))
def test_a_sample_is_that_of_the_smallest_numbers(population: int, count: int, seed: int, digits: int) -> None:
    class Coarse(random.Random):  # which often draws the same number twice
        def random(self) -> float:
            return round(super().random(), digits)

    rng = Coarse(seed)
    pairs = ((rng.random(), index) for index in range(population))
    expected = sorted(index for _, index in heapq.nsmallest(count, pairs))
    assert sample(population, count, Coarse(seed)) == expected


def peak(recipe: Recipe, family: Family) -> int:
    """Bytes that the first task takes at most while it is read, hashed, written as prompts and encoded."""
    arrow = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    (task,) = load_tasks(recipe)
    task_read(task)
    texts = task_texts(task, "train", family, recipe)
    assert len(encode(family, texts.examples)) == len(task.train)
    most = tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes() - arrow
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("answers", ["labels", "free"])
def test_more_rows_take_hardly_more_memory(
    answers: str, tmp_path: Path, flat_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("tasks.stored", "tasks.loading", "models.examples"):
        monkeypatch.setattr(f"clkit.{part}.BATCH", 50)
    monkeypatch.setattr(module, "MOST_DISTINCT", 50)

    def recipe(rows: int) -> Recipe:
        draw = random.Random(rows)
        with (tmp_path / f"{rows}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(rows):
                text = " ".join(f"w{draw.randrange(6, 37)}" for _ in range(40))
                label = text[::-1] if answers == "free" else f"w{1 + index % 2}"
                file.write(json.dumps({"text": text, "label": label}) + "\n")
        source = {"kind": "files", "train": file.name, "test": file.name}
        task = {"name": "one", "source": source, "answers": answers}
        return toy_recipe(tmp_path, flat_llama, tasks=[task], data={"test_per_task": 10, "validation_share": 0.1})

    family = load_learner(recipe(8), {"one": ("w1", "w2")})
    few, many = recipe(300), recipe(2100)
    peak(few, family)  # what is loaded or kept for good when something is first used
    more = (tmp_path / "2100.jsonl").stat().st_size - (tmp_path / "300.jsonl").stat().st_size
    assert peak(many, family) - peak(few, family) < 0.3 * more
