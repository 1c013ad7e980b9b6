"""What the classes of the contract suite share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from clkit.engine.sequence import train
from tests.contract.settings import SETTINGS, Case, Weights, contract_recipe, weights


@pytest.fixture(scope="session")
def plain_weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_tasks: Path
) -> Callable[[Case], list[Weights]]:
    """The parameters before, between and after the tasks, learned without any strategy."""

    @cache
    def learned(case: Case) -> list[Weights]:
        model = request.getfixturevalue(SETTINGS[case.setting].model)
        recipe = contract_recipe(toy_tasks, model, case, [])
        return weights(train(recipe, tmp_path_factory.mktemp("plain") / "run"), recipe)

    return learned
