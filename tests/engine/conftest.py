"""Fixtures that the engine's tests share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe
from clkit.runs import RunFolder
from tests.toy import toy_recipe

#: The toy's recipe on the toy T5, with changes.
ToyRecipe = Callable[..., Recipe]
#: A finished run of a recipe.
Finished = Callable[[Recipe], RunFolder]


@pytest.fixture(scope="session")
def dropout_t5(tmp_path_factory: pytest.TempPathFactory, toy_t5: Path) -> Path:
    """The toy model with dropout, so that training draws random numbers."""
    folder = tmp_path_factory.mktemp("dropout") / "t5"
    shutil.copytree(toy_t5, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.2}))
    return folder


@pytest.fixture(scope="session")
def toy(toy_tasks: Path, toy_t5: Path) -> ToyRecipe:
    """Makes a recipe over the two toy tasks; the same changes give the same recipe."""

    def recipe(**changes: Any) -> Recipe:
        return toy_recipe(toy_tasks, toy_t5, **changes)

    return recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Gives a finished run of a recipe, trained when it is first asked for; who changes it takes a copy."""

    runs: dict[str, RunFolder] = {}

    def finished(recipe: Recipe) -> RunFolder:
        content = recipe.model_dump_json()
        if content not in runs:
            runs[content] = train(recipe, tmp_path_factory.mktemp("finished") / "run")
        return runs[content]

    return finished
