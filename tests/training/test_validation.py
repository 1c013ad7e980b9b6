"""Which step's weights a task ends with, by its validation loss, and that nothing else changes by measuring it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from clkit.engine.evaluate import load_stage
from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import InterruptionError
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions
from clkit.testing.examiner import Examiner
from tests.interrupting import Heard, StopsAt, assert_same, stop
from tests.toy import toy_recipe

LOSSES = [3.0, 1.0, 2.0, math.nan, 1.5, 1.0, 0.5, 4.0]
DATA = {"validation_share": 0.25, "test_per_task": 4}
KINDS: dict[str, dict[str, Any]] = {
    "flat_t5": {},
    "flat_llama": {"evaluation": {"metric": "loss", "zero_shot": False}},
    "toy_roberta": {"objective": {"kind": "classification", "heads": "per_task"}},
}


class SeesOptions(StrategyOptions):
    name: Any = "sees"


class Sees(Strategy):
    """Writes down the weights that it is given, at each step and when the task is learned."""

    name: ClassVar[str] = "sees"
    steps_seen: ClassVar[list[torch.Tensor]] = []
    at_the_end: ClassVar[list[torch.Tensor]] = []

    def after_step(self, context: Context) -> None:
        self.steps_seen.append(_first(context))

    def after_task(self, context: Context) -> None:
        self.at_the_end.append(_first(context))


def _first(context: Context) -> torch.Tensor:
    return next(one for one in context.model.parameters() if one.requires_grad).detach().clone()


SEES = "tests.training.test_validation:Sees"


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation loss is what `LOSSES` says, whatever the model."""
    monkeypatch.setattr(Examiner, "loss", lambda self, family, names: next(given))
    given = iter(LOSSES)


def recipe(folder: Path, model: Path, strategy: str = SEES, **training: Any) -> Recipe:
    """Eighteen examples, three steps an epoch."""
    return toy_recipe(
        folder,
        model,
        strategies=[{"name": strategy}],
        data=DATA,
        evaluation={"zero_shot": False},
        training={"epochs": 4.0, "learning_rate": 1e-3, **training},
        tasks=toy_recipe(folder, model).model_dump()["tasks"][:1],
    )


@pytest.mark.parametrize(
    ("training", "measured", "kept"),
    [
        ({"evaluate_every": 2}, [2, 4, 6, 8, 10, 12], 12),
        ({"evaluate_every": 2, "keep": "best"}, [2, 4, 6, 8, 10, 12], 4),  # equal losses: the first of them
        ({"evaluate_every": 5, "keep": "best"}, [5, 10, 12], 10),  # after the last step too
        ({"evaluate_every": "epoch", "keep": "best"}, [3, 6, 9, 12], 6),
        ({"evaluate_every": 1, "keep": "best", "patience": 3}, [1, 2, 3, 4, 5], 2),
        ({"evaluate_every": 1, "patience": 3}, [1, 2, 3, 4, 5], 5),
    ],
)
def test_which_step_is_kept(
    training: dict[str, Any], measured: list[int], kept: int, tmp_path: Path, flat_t5: Path, losses: None
) -> None:
    Sees.steps_seen.clear(), Sees.at_the_end.clear()
    run = train(recipe(tmp_path, flat_t5, **training), tmp_path / "run")
    lines = [line for line in run.log.read() if line["event"] == "validated"]
    assert [line["step"] for line in lines] == measured
    assert [float(line["validation_loss"]) for line in lines] == pytest.approx(LOSSES[: len(measured)], nan_ok=True)
    payload = run.stages()[-1].payload
    assert (payload["steps"], payload["kept_step"]) == (measured[-1], kept)
    assert len(Sees.steps_seen) == measured[-1]
    assert torch.equal(Sees.at_the_end[0], Sees.steps_seen[kept - 1])
    weights = load_file(run.stages()[-1].folder / "model/model.safetensors")
    assert any(torch.equal(one, Sees.steps_seen[kept - 1]) for one in weights.values())


def test_a_loss_that_is_never_finite_keeps_the_last_step(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examiner, "loss", lambda self, family, names: math.inf)
    run = train(recipe(tmp_path, flat_t5, evaluate_every=4, keep="best"), tmp_path / "run")
    payload = run.stages()[-1].payload
    assert (payload["kept_step"], payload["validation_loss"]) == (12, None)


@pytest.mark.parametrize(("kind", "precision"), [*((kind, "fp32") for kind in KINDS), ("flat_llama", "bf16")])
def test_the_loss_is_that_of_the_model_that_is_saved(
    kind: str, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Computed anew by a test of its own, with the saved model, on the validation rows."""
    training = {"epochs": 1.0, "evaluate_every": 2, "keep": "best", "learning_rate": 3e-2, "precision": precision}
    model = request.getfixturevalue(kind)
    chosen = toy_recipe(tmp_path, model, data=DATA, training=training, **KINDS[kind])
    run = train(chosen, tmp_path / "run")
    for stage in run.stages()[-2:]:
        family = load_stage(run, chosen, stage.name)
        (task,) = (task for task in prepare(chosen).tasks if task.name == stage.name)
        assert task.validation is not None
        measured = Examiner([replace(task, test=task.validation)], chosen).loss(family, [stage.name])
        assert stage.payload["validation_loss"] == pytest.approx(measured, rel=1e-6)
        lines = [line for line in _validated(run) if line["task"] == stage.name]
        assert stage.payload["validation_loss"] == min(line["validation_loss"] for line in lines)


def test_measuring_changes_nothing(tmp_path: Path, dropout_t5: Path) -> None:
    migu = [{"name": "migu", "threshold": 0.5}]
    plain = toy_recipe(tmp_path, dropout_t5, data=DATA, strategies=migu, evaluation={"zero_shot": False})
    often = plain.model_copy(update={"training": plain.training.model_copy(update={"evaluate_every": 1})})
    assert_same(train(plain, tmp_path / "plain"), train(often, tmp_path / "often"))


STRATEGIES = {
    "full": [{"name": "replay", "number": 10}, {"name": "migu", "threshold": 0.5}, {"name": "ewc", "ewc_lambda": 10.0}],
    "incremental_lora": [{"name": "olora"}, {"name": "migu", "threshold": 0.5}],
}


@pytest.mark.parametrize(("tuning", "step"), [("full", 5), ("incremental_lora", 4)])
def test_going_on_keeps_the_same_step(tuning: str, step: int, tmp_path: Path, dropout_t5: Path) -> None:
    """Stopped between two measurements, and at one."""
    chosen = toy_recipe(
        tmp_path,
        dropout_t5,
        data=DATA,
        tuning={"method": tuning},
        strategies=STRATEGIES[tuning],
        evaluation={"zero_shot": False},
        training={"learning_rate": 5e-2, "evaluate_every": 2, "keep": "best", "patience": 2},
    )
    whole = train(chosen, tmp_path / "whole")
    stop(chosen, tmp_path / "run", "second", step)
    run = train(chosen, tmp_path / "run", resume=True)
    assert_same(run, whole)
    assert _validated(run) == _validated(whole)
    assert [stage.payload["kept_step"] for stage in run.stages()] == [
        stage.payload["kept_step"] for stage in whole.stages()
    ]


def _validated(run: RunFolder) -> list[dict[str, Any]]:
    lines = [line for line in run.log.read() if line["event"] == "validated"]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_a_signal_in_the_step_that_ends_the_training_early(tmp_path: Path, flat_t5: Path, losses: None) -> None:
    """The stage is saved as trained: a checkpoint would be gone on from with one step too many."""
    chosen = recipe(tmp_path, flat_t5, evaluate_every=1, keep="best", patience=3)
    with pytest.raises(InterruptionError):
        train(chosen, tmp_path / "run", listener=StopsAt("first", 5))
    heard = Heard()
    run = train(chosen, tmp_path / "run", resume=True, listener=heard)
    assert heard.remarks == ["first: trained before, and tested now"]
    assert run.stages()[-1].payload["kept_step"] == 2


def test_strategies_take_what_they_keep_from_the_kept_weights(tmp_path: Path, flat_t5: Path, losses: None) -> None:
    chosen = recipe(tmp_path, flat_t5, "ewc", evaluate_every=2, keep="best")
    stage = train(chosen, tmp_path / "run").stages()[-1]
    assert stage.payload["kept_step"] == 4
    weights = load_file(stage.folder / "model/model.safetensors")
    kept = load_file(stage.folder / "strategies.safetensors")
    centre = {name.rpartition("/")[2]: one for name, one in kept.items() if "center/" in name}
    assert centre
    assert all(torch.equal(one, weights[name]) for name, one in centre.items())
