"""Fixtures that several rooms share: a T5 small enough to compute by hand with, and the real data where it lies."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Set before any library that reads them is imported. No test may reach a network; and pytest's workers share the cores,
# on which a second thread each would mostly wait for the other.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


#: What takes a worker longest in one piece.
LONGEST = ("test_processes.py", "test_checkpoints.py", "test_real_data.py", "test_fuzzing.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that at the end no worker waits for another that has just begun one of them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Spare each training, which begins by collecting garbage, the half a million objects that imports have made."""
    gc.collect()
    gc.freeze()


SHARED = Path(os.environ.get("CLKIT_SHARED", Path(__file__).parents[2] / "shared"))


def _shared(part: str) -> Path:
    path = SHARED / part
    if not path.is_dir():
        pytest.skip(f"needs {path} (set CLKIT_SHARED to the folder that holds {part})")
    return path


@pytest.fixture(scope="session")
def cl_benchmark() -> Path:
    """The fifteen real tasks in the CL_Benchmark layout."""
    return _shared("data/CL_Benchmark")


@pytest.fixture(scope="session")
def t5_tiny() -> Path:
    """A small T5 that is pre-trained for real."""
    return _shared("models/t5-tiny")


def _toy(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.toy_models import write_toy  # takes seconds, which tests without a model should not cost

    return write_toy(family, tmp_path_factory.mktemp(f"toy-{family}"))


@pytest.fixture(scope="session")
def toy_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of 16 units and a tokenizer of 40 words."""
    return _toy("seq2seq", tmp_path_factory)


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the data of toy recipes, the same for all."""
    return tmp_path_factory.mktemp("toy-tasks")


@pytest.fixture(scope="session")
def toy_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 16 units."""
    return _toy("decoder", tmp_path_factory)


@pytest.fixture(scope="session")
def toy_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random RoBERTa of 16 units, for masked tokens."""
    return _toy("encoder", tmp_path_factory)
