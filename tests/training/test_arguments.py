"""How the effective batch is divided, and what a machine cannot train."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import is_bitsandbytes_available

from clkit.engine.prepare import prepare, without_effect
from clkit.engine.sequence import train
from clkit.errors import RecipeError, UsageError
from clkit.models.sections import ModelSection
from clkit.recipe import inputs
from clkit.recipe.inputs import missing_inputs
from clkit.run.folder import RunFolder
from clkit.training import arguments
from clkit.training.arguments import batch_split, task_seed, training_arguments
from clkit.training.sections import PACKAGE_OF, OptimizerName
from tests.interrupting import Heard, stop
from tests.toy import ToyRecipe, toy_recipe


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(64, None, 1, (64, 1)), (64, 8, 1, (8, 8)), (64, 8, 2, (8, 4)), (64, 64, 8, (8, 1)), (1, None, 1, (1, 1))],
)
def test_micro_batches_times_processes_make_the_batch(
    batch: int, micro: int | None, processes: int, expected: tuple[int, int]
) -> None:
    assert batch_split(batch, micro, processes) == expected
    assert expected[0] * expected[1] * processes == batch


def test_replay_keeps_no_optimizer_from_leaving_masked_rows_alone(tmp_path: Path, flat_t5: Path) -> None:
    migu = {"name": "migu", "mask": "update", "moments": "held", "hold": 5}
    plan = prepare(toy_recipe(tmp_path, flat_t5, strategies=[migu, {"name": "replay"}])).plan()
    assert "migu: the optimizer leaves masked rows alone" in plan.remarks


@pytest.mark.parametrize("method", ["lora", "incremental_lora"])
def test_that_weights_round_what_is_merged_into_them_is_said(tmp_path: Path, flat_llama: Path, method: str) -> None:
    recipe = toy_recipe(tmp_path, flat_llama, tuning={"method": method, "rank": 2})
    remarks = (
        prepare(recipe.model_copy(update={"model": ModelSection(name=str(flat_llama), dtype="bfloat16")}))
        .plan()
        .remarks
    )
    said = "model.dtype: each finished task's adapter is merged into weights in bfloat16, which round it by more"
    assert any(remark.startswith(said) for remark in remarks) is (method == "incremental_lora")


@pytest.mark.parametrize(("batch", "micro", "processes"), [(64, None, 3), (64, 24, 2), (2, None, 4)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, micro: int | None, processes: int) -> None:
    with pytest.raises(RecipeError, match=rf"training.batch_size: {batch} cannot be divided into {processes} process"):
        batch_split(batch, micro, processes)


def test_what_a_machine_cannot_train_is_refused_before_anything_is_tested(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(**changes: Any) -> None:
        prepare(toy_recipe(tmp_path, flat_t5, **changes))

    ready()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"training.precision: fp16 needs a GPU, and none is visible here"):
        ready(training={"precision": "fp16"})
    ready(training={"precision": "fp16"}, protocol="zero_shot")
    monkeypatch.setattr(arguments, "processes", lambda: SimpleNamespace(num_processes=3))
    with pytest.raises(RecipeError, match=r"training.batch_size: 8 cannot be divided into 3 process"):
        ready(training={"batch_size": 8})


@pytest.fixture
def _looked_for_anew() -> Iterator[None]:
    """Whether bitsandbytes is there: transformers remembers it, for this test and those that follow."""
    is_bitsandbytes_available.cache_clear()
    yield
    is_bitsandbytes_available.cache_clear()


@pytest.mark.usefixtures("_looked_for_anew")
@pytest.mark.parametrize(("optimizer", "of"), sorted(PACKAGE_OF.items()))
def test_an_optimizer_whose_package_is_missing_is_refused_before_anything_is_loaded(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, of: str
) -> None:
    monkeypatch.setattr(inputs, "find_spec", lambda name: None)
    for module in {of, *(name for name in sys.modules if name.startswith(f"{of}."))}:
        monkeypatch.setitem(sys.modules, module, None)  # a part that is loaded already would be found without it
    recipe = toy_recipe(tmp_path, flat_t5, training={"optimizer": optimizer})
    wanted = f"training.optimizer: {optimizer} needs {of}, which is not installed: `pip install {of}`"
    assert missing_inputs(recipe) == [wanted]
    with pytest.raises(UsageError, match=rf"training.optimizer: {optimizer} cannot be used here \(.*\)"):
        prepare(recipe)


def test_an_optimizer_that_cannot_step_on_this_device_is_refused(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(torch.optim.SGD, "step", fails)
    message = (
        r"training.optimizer: sgd cannot be used here \(no kernel for this device\); adamw_torch_fused needs nothing"
    )
    with pytest.raises(UsageError, match=message):
        prepare(toy_recipe(tmp_path, flat_t5, training={"optimizer": "sgd"}))


def test_the_fused_adamw_is_the_default_and_steps_as_the_plain_one_does(tmp_path: Path, flat_t5: Path) -> None:
    """To within rounding; `adamw_torch` is the stock implementation."""
    trained = []
    for name, changes in {"default": {}, "plain": {"optimizer": "adamw_torch"}}.items():
        recipe = toy_recipe(tmp_path, flat_t5, training={"weight_decay": 0.1, "epochs": 1.0, **changes})
        run = train(recipe, tmp_path / name)
        trained.append(load_file(run.stages()[-1].folder / "model" / "model.safetensors"))
    assert toy_recipe(tmp_path, flat_t5).training.optimizer == "adamw_torch_fused"
    for name, one in trained[0].items():
        torch.testing.assert_close(one, trained[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", [name for name in get_args(OptimizerName) if name not in PACKAGE_OF])
def test_masked_rows_stay_where_they_are_whatever_the_optimizer(tmp_path: Path, flat_t5: Path, optimizer: str) -> None:
    """With rows masked that are the same for the whole run, so that the weights before and after show which."""
    migu = {"name": "migu", "mask": "update", "source": "fixed_random", "first_task": "masked"}
    recipe = toy_recipe(
        tmp_path, flat_t5, strategies=[migu], training={"optimizer": optimizer, "weight_decay": 0.1, "epochs": 1.0}
    )
    run = train(recipe, tmp_path / "run")
    before = load_file(flat_t5 / "model.safetensors")
    after = load_file(run.stages()[-1].folder / "model" / "model.safetensors")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    moved = (before[name] != after[name]).any(dim=1)
    assert moved.sum() == len(moved) - int(0.7 * len(moved))
    assert (before["shared.weight"] != after["shared.weight"]).any()


def test_each_task_and_seed_has_its_own_draw() -> None:
    assert len({task_seed(seed, index) for seed in range(20) for index in range(20)}) == 400


@pytest.mark.parametrize(("has", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_is_the_machines(has: bool, chosen: str, toy: ToyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "has_bfloat16", lambda device: has)
    recipe = toy(training={"precision": "auto"})
    assert training_arguments(recipe, "first", 0, "out").bf16 is has
    assert f"training.precision: auto is {chosen} on this machine" in without_effect(recipe, [])


def test_going_on_with_another_precision_is_told(
    toy: ToyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy(training={"precision": "auto", "epochs": 1.0}, evaluation={"tasks": "final", "zero_shot": False})
    monkeypatch.setattr(arguments, "has_bfloat16", lambda device: True)
    stop(recipe, tmp_path / "run", "first", 2)
    assert RunFolder.open(tmp_path / "run").environment()["versions"]["training.precision"] == "bf16"
    monkeypatch.setattr(arguments, "has_bfloat16", lambda device: False)
    heard = Heard()
    train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert "other versions than when the run began: training.precision fp32 (was bf16)" in heard.remarks
