"""Fixtures that several rooms share: a T5 small enough to compute by hand with, and the real data where it lies."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clkit.recipe.recipe import Recipe
    from clkit.run.folder import RunFolder
    from tests.toy import Finished, ToyRecipe

# Set before any library that reads them is imported. No test may reach a network; and pytest's workers share the cores,
# on which a second thread each would mostly wait for the other.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


#: What takes a worker longest in one piece.
LONGEST = ("test_readme.py", "test_processes.py", "test_checkpoints.py", "test_real_data.py", "test_fuzzing.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that at the end no worker waits for another that has just begun one of them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Spare each training, which begins by collecting garbage, the half a million objects that imports have made."""
    gc.collect()
    gc.freeze()
    # `clkit` asks whether anything is frozen before each training, and the answer is found by counting.
    frozen = gc.get_freeze_count()
    gc.get_freeze_count = lambda: frozen  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """A run asks the disk some eighty times whether it has written; no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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


def _toy(family: str, tmp_path_factory: pytest.TempPathFactory, layers: int = 2) -> Path:
    from tests.toy_models import write_toy  # takes seconds, which tests without a model should not cost

    return write_toy(family, tmp_path_factory.mktemp(f"toy-{family}"), layers)


@pytest.fixture(scope="session")
def toy_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of 16 units and a tokenizer of 40 words."""
    return _toy("seq2seq", tmp_path_factory)


@pytest.fixture(scope="session")
def flat_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy T5 with one layer, for whole runs: their time goes with the number of modules."""
    return _toy("seq2seq", tmp_path_factory, layers=1)


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the data of toy recipes, the same for all."""
    return tmp_path_factory.mktemp("toy-tasks")


@pytest.fixture(scope="session")
def toy_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 16 units."""
    return _toy("decoder", tmp_path_factory)


@pytest.fixture(scope="session")
def flat_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy Llama with one layer."""
    return _toy("decoder", tmp_path_factory, layers=1)


@pytest.fixture(scope="session")
def toy_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random RoBERTa of 16 units, for masked tokens."""
    return _toy("encoder", tmp_path_factory)


@pytest.fixture(scope="session")
def flat_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy RoBERTa with one layer."""
    return _toy("encoder", tmp_path_factory, layers=1)


@pytest.fixture(scope="session")
def dropout_t5(tmp_path_factory: pytest.TempPathFactory, flat_t5: Path) -> Path:
    """The toy T5 of one layer with dropout, so that training draws random numbers."""
    folder = tmp_path_factory.mktemp("dropout") / "t5"
    shutil.copytree(flat_t5, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.2}))
    return folder


@pytest.fixture(scope="session")
def toy(toy_tasks: Path, flat_t5: Path) -> ToyRecipe:
    """Makes a recipe over the two toy tasks; the same changes give the same recipe."""

    def recipe(**changes: Any) -> Recipe:
        from tests.toy import toy_recipe

        return toy_recipe(toy_tasks, flat_t5, **changes)

    return recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Gives a finished run of a recipe, trained when it is first asked for; who changes it takes a copy."""

    from clkit.engine.sequence import train

    runs: dict[str, RunFolder] = {}

    def finished(recipe: Recipe) -> RunFolder:
        content = recipe.model_dump_json()
        if content not in runs:
            runs[content] = train(recipe, tmp_path_factory.mktemp("finished") / "run")
        return runs[content]

    return finished


@pytest.fixture(scope="session")
def toy_t5_with_sentinels(tmp_path_factory: pytest.TempPathFactory, flat_t5: Path) -> Path:
    """The toy T5 of one layer with the two sentinels that corrupting one span takes."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(flat_t5), AutoTokenizer.from_pretrained(flat_t5)
    tokenizer.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    set_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path_factory.mktemp("toy-sentinels")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
