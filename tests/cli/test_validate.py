"""`clkit validate`: every problem on its line and exit code 2, or what the recipe is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clkit.cli.validate import validate
from clkit.errors import UsageError
from tests.cli.verbs import call


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_valid_recipe_says_what_it_is() -> None:
    result = call(validate, "t5_order1", "strategies=[]")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "name: t5_order1",
        "model: google-t5/t5-large",
        "tasks: dbpedia, amazon, yahoo, agnews",
        "tuning: full",
        "strategies: none",
    ]
    assert result.stderr == "valid\n"


def test_every_problem_is_listed() -> None:
    Path("my.yaml").write_text("extends: quickstart\nseed: x\ntraining: {lr: 3, epochs: 0}\n")
    result = call(validate, "my.yaml")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["my.yaml:2", "seed"],
        ["my.yaml:3", "training"],
        ["my.yaml:3", "training.epochs"],
    ]
    assert result.stderr == ""


def test_missing_folders_are_problems(here: Path) -> None:
    result = call(validate, "t5_order1", "model.name=./t5", "benchmark.folder=data")
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [
        f"model.name: the folder {here}/t5 does not exist; name a folder that save_pretrained wrote",
        f"benchmark.folder: no folder '{here}/data'",
    ]


def test_json() -> None:
    valid = call(validate, "quickstart", "--json")
    assert valid.exit_code == 0
    assert json.loads(valid.stdout) == {
        "valid": True,
        "problems": [],
        "name": "quickstart",
        "model": "embedded:tiny-t5",
        "tasks": ["topics", "reviews", "requests", "emotions"],
        "tuning": "full",
        "strategies": ["migu"],
    }
    invalid = call(validate, "quickstart", "seed=x", "--json")
    assert invalid.exit_code == 2
    assert json.loads(invalid.stdout) == {
        "valid": False,
        "problems": [
            "command line: seed: 'x' is not a whole number (allowed: a whole number from 0, below 4294967296)"
        ],
    }


def test_an_unknown_recipe_is_wrong_use() -> None:
    assert isinstance(call(validate, "quikstart").exception, UsageError)
