"""What every strategy must keep, on every family. A strategy's test inherits `StrategyContract` and says how the recipe
names it::

    class TestMIGU(StrategyContract):
        entry: ClassVar = {"name": "migu", "threshold": 0.7}
        first_task_is_plain = True
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.registry import load_strategy
from clkit.training.state import load_strategies, save_strategies
from tests.contract.settings import FAMILIES, SETTINGS, Case, Weights, cases, contract_recipe, weights
from tests.interrupting import Heard, assert_same, stop


class StrategyContract:
    """Runs a strategy on every family and tuning that it supports; ``entry`` is its entry in a recipe."""

    entry: ClassVar[dict[str, Any]]
    first_task_is_plain: ClassVar[bool]
    #: Names that must appear in the log once the strategy is at work (second task).
    logged: ClassVar[set[str]] = set()
    #: The `SETTINGS` on which it is run.
    settings: ClassVar[tuple[str, ...]] = FAMILIES

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        found = cases(load_strategy(self.entry["name"]), self.settings)
        metafunc.parametrize("case", found, ids=str, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def recipe(cls, case: Case, request: pytest.FixtureRequest, toy_tasks: Path) -> Recipe:
        model = request.getfixturevalue(SETTINGS[case.setting].model)
        return contract_recipe(toy_tasks, model, case, [cls.entry])

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
        """The strategy's run; tests that change it take a copy."""
        return train(recipe, tmp_path_factory.mktemp("run") / "run")

    @pytest.fixture(scope="class")
    @classmethod
    def ours(cls, run: RunFolder, recipe: Recipe) -> list[Weights]:
        """The parameters before, between and after the tasks."""
        return weights(run, recipe)

    @pytest.fixture(scope="class")
    @classmethod
    def plain(cls, case: Case, plain_weights: Callable[[Case], list[Weights]]) -> list[Weights]:
        """The same, learned without any strategy."""
        return plain_weights(case)

    def test_trains_with_a_finite_loss_and_logs_its_terms(self, run: RunFolder) -> None:
        steps = [line for line in run.log.read() if line["event"] == "step"]
        assert {line["task"] for line in steps} == {"first", "second"}
        assert all(math.isfinite(value) for line in steps for value in line.values() if isinstance(value, float))
        second = [line for line in steps if line["task"] == "second"]
        assert all(self.logged <= set(line) for line in second)

    def test_the_first_task_equals_plain_tuning_where_the_method_says_so(
        self, ours: list[Weights], plain: list[Weights]
    ) -> None:
        assert equal(ours[1], plain[1]) is self.first_task_is_plain

    def test_it_changes_the_second_task(self, ours: list[Weights], plain: list[Weights]) -> None:
        assert not equal(ours[2], plain[2])

    def test_weights_after_each_task_are_the_trained_ones(self, ours: list[Weights]) -> None:
        before, first, second = (
            {name: parameter for name, parameter in stage.items() if parameter.requires_grad} for stage in ours
        )
        assert not equal(first, before)
        assert not equal(second, first)

    def test_a_saved_model_answers_as_the_one_in_memory_did(self, run: RunFolder) -> None:
        for stage in run.stages():
            kept = [json.loads(line) for line in (stage.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
            again = [record for answer in evaluate(run, stage=str(stage.index)) for record in answer.records()]
            assert again == kept

    def test_state_survives_a_round_trip(self, run: RunFolder, recipe: Recipe, tmp_path: Path) -> None:
        strategy = load_strategy(self.entry["name"])
        fresh = strategy(recipe.strategies[0])
        load_strategies([fresh], run.stages()[-1].folder)
        save_strategies([fresh], tmp_path)
        for file in ("strategies.json", "strategies.safetensors"):
            assert (tmp_path / file).read_bytes() == (run.stages()[-1].folder / file).read_bytes()

    def test_resuming_between_tasks_and_inside_one_equals_never_having_stopped(
        self, run: RunFolder, recipe: Recipe, tmp_path: Path
    ) -> None:
        """Stopped before the second task, and again after its fourth step."""
        shutil.copytree(run.path, tmp_path / "stopped")
        shutil.rmtree(tmp_path / "stopped" / "tasks" / "02-second")
        stop(recipe, tmp_path / "stopped", "second", 4, resume=True)
        heard = Heard()
        resumed = train(recipe, tmp_path / "stopped", resume=True, listener=heard)
        assert heard.went_on_after == [4]
        assert_same(resumed, run)

    def test_unknown_state_is_refused(self, recipe: Recipe) -> None:
        strategy = load_strategy(self.entry["name"])(recipe.strategies[0])
        for load in (strategy.load_state_dict, strategy.load_task_state_dict):
            with pytest.raises(KeyError):
                load({"something": 1})


def equal(ours: Weights, theirs: Weights) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)
