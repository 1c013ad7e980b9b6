"""What every strategy must keep. A strategy's test inherits `StrategyContract` and says how the recipe names it::

class TestMIGU(StrategyContract):
    entry: ClassVar = {"name": "migu", "threshold": 0.7}
    first_task_is_plain = True
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.engine.state import load_strategies, save_strategies
from clkit.models.loading import load_model
from clkit.recipe.recipe import Recipe
from clkit.runs import RunFolder
from clkit.strategies.registry import load_strategy
from tests.interrupting import Heard, assert_same, stop
from tests.toy import toy_recipe

TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "rank": 4},
    "incremental_lora": {"method": "incremental_lora", "rank": 4},
}


class StrategyContract:
    """Runs a strategy on every tuning that it supports; ``entry`` is its entry in a recipe."""

    entry: ClassVar[dict[str, Any]]
    first_task_is_plain: ClassVar[bool]
    #: Names that must appear in the log once the strategy is at work (second task).
    logged: ClassVar[set[str]] = set()

    @pytest.fixture(scope="class", params=list(TUNINGS))
    @classmethod
    def recipe(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_t5: Path) -> Recipe:
        if request.param not in load_strategy(cls.entry["name"]).tunings:
            pytest.skip(f"{cls.entry['name']} does not support tuning.method: {request.param}")
        return toy_recipe(
            tmp_path_factory.mktemp("data"),
            toy_t5,
            tuning=TUNINGS[request.param],
            strategies=[cls.entry],
            evaluation={"tasks": "all"},
        )

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
        """The strategy's run; tests that change it take a copy."""
        return train(recipe, tmp_path_factory.mktemp("run") / "run")

    @pytest.fixture(scope="class")
    @classmethod
    def plain(cls, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
        """The same recipe without any strategy."""
        return train(recipe.model_copy(update={"strategies": []}), tmp_path_factory.mktemp("plain") / "run")

    def weights(self, run: RunFolder, recipe: Recipe, stage: int) -> dict[str, torch.Tensor]:
        folders = [done.folder for done in run.stages()[1 : stage + 1]]
        torch.manual_seed(recipe.seed)
        return dict(load_model(recipe.model, recipe.tuning, folders).model.named_parameters())

    def test_trains_with_a_finite_loss_and_logs_its_terms(self, run: RunFolder) -> None:
        steps = [line for line in run.read_log() if line["event"] == "step"]
        assert {line["task"] for line in steps} == {"first", "second"}
        assert all(math.isfinite(value) for line in steps for value in line.values() if isinstance(value, float))
        second = [line for line in steps if line["task"] == "second"]
        assert all(self.logged <= set(line) for line in second)

    def test_the_first_task_equals_plain_tuning_where_the_method_says_so(
        self, run: RunFolder, plain: RunFolder, recipe: Recipe
    ) -> None:
        ours, theirs = self.weights(run, recipe, 1), self.weights(plain, recipe, 1)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours) is self.first_task_is_plain

    def test_it_changes_the_second_task(self, run: RunFolder, plain: RunFolder, recipe: Recipe) -> None:
        ours, theirs = self.weights(run, recipe, 2), self.weights(plain, recipe, 2)
        assert not all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_weights_after_each_task_are_the_trained_ones(self, run: RunFolder, recipe: Recipe) -> None:
        before, first, second = (self.weights(run, recipe, stage) for stage in (0, 1, 2))
        trained = [name for name, parameter in first.items() if parameter.requires_grad]
        assert not all(torch.equal(before[name], first[name]) for name in trained)
        assert not all(torch.equal(first[name], second[name]) for name in trained)

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

    def test_resuming_equals_never_having_stopped(self, run: RunFolder, recipe: Recipe, tmp_path: Path) -> None:
        shutil.copytree(run.path, tmp_path / "stopped")
        shutil.rmtree(tmp_path / "stopped" / "tasks" / "02-second")
        assert_same(train(recipe, tmp_path / "stopped", resume=True), run)

    def test_resuming_inside_a_task_equals_never_having_stopped(
        self, run: RunFolder, recipe: Recipe, tmp_path: Path
    ) -> None:
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
