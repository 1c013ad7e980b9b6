"""A compiled run comes to the weights of one that is not; what compiling or Liger needs is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.training import arguments, sections
from clkit.training.arguments import training_arguments
from tests.contract.settings import SETTINGS, TUNINGS
from tests.interrupting import stop
from tests.toy import ToyRecipe, toy_recipe

ALWAYS = {"name": "migu", "first_task": "masked"}


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Recipe]:
    def made(setting: str, tuning: str, strategies: list[dict[str, Any]], **training: Any) -> Recipe:
        chosen = SETTINGS[setting]
        return toy_recipe(
            tmp_path,
            request.getfixturevalue(chosen.model),
            tuning=TUNINGS[tuning] | ({"dropout": 0.0} if tuning != "full" else {}),
            strategies=strategies,
            training={"compile": True, "learning_rate": 1e-3, "epochs": 1.0, **training},
            evaluation={"tasks": "final", "zero_shot": False},
            **chosen.changes,
        )

    return made


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    files = [file for stage in run.stages() for file in sorted(stage.folder.glob("*/*model.safetensors"))]
    assert len(files) == len(run.stages())
    return {f"{file.parts[-3]}/{name}": one for file in files for name, one in load_file(file).items()}


def assert_near(run: RunFolder, other: RunFolder) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    assert not any("_orig_mod" in name for name in ours)
    for name, one in ours.items():
        torch.testing.assert_close(one, theirs[name], rtol=0, atol=1e-5)


def differing(recipe: Recipe, **training: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def compiled_beside_plain(folder: Path, recipe: Recipe) -> tuple[RunFolder, RunFolder]:
    torch._dynamo.utils.counters.clear()
    compiled = train(recipe, folder / "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    # What is checkpointed may not change what stands outside of it, as sums of magnitudes do.
    assert recipe.training.gradient_checkpointing or not torch._dynamo.utils.counters["graph_break"]
    return compiled, train(differing(recipe, compile=False), folder / "plain")


def test_magnitudes_are_taken_inside_a_compiled_model(
    tmp_path: Path, small: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "COMPILER", "eager")  # the graph is that of any other, and no kernel is made
    recipe = small("decoder", "full", [{**ALWAYS, "mask": "update"}])
    recipe = recipe.model_copy(update={"tasks": recipe.tasks[:1] if recipe.tasks else None})
    assert_near(*compiled_beside_plain(tmp_path, recipe))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "tuning", "strategies", "training"),
    [
        ("decoder", "full", [{**ALWAYS, "mask": "update"}], {}),
        ("decoder", "lora", [ALWAYS], {"gradient_checkpointing": True}),
        ("decoder", "full", [ALWAYS], {"micro_batch_size": 4}),
        ("decoder", "full", [{"name": "osf"}], {}),
        ("decoder", "lora", [{"name": "ewc"}, {"name": "replay"}], {}),
        ("encoder", "full", [{"name": "migu"}, {"name": "lwf"}], {}),
        ("encoder-heads", "full", [ALWAYS], {}),
        ("seq2seq", "full", [{**ALWAYS, "mask": "update"}], {}),
        ("seq2seq", "incremental_lora", [ALWAYS, {"name": "olora"}], {}),
        ("seq2seq-pretraining", "full", [ALWAYS], {}),
    ],
    ids=str,
)
def test_a_compiled_run_comes_to_the_same_weights(
    setting: str,
    tuning: str,
    strategies: list[dict[str, Any]],
    training: dict[str, Any],
    tmp_path: Path,
    small: Callable[..., Recipe],
) -> None:
    recipe = small(setting, tuning, strategies, **training)
    assert_near(*compiled_beside_plain(tmp_path, recipe))


def distance(run: RunFolder, other: RunFolder) -> float:
    """Euclidean, between the weights of all stages."""
    ours, theirs = weights(run), weights(other)
    return float(torch.stack([(ours[name] - theirs[name]).norm() for name in theirs]).norm())


@pytest.mark.slow
def test_in_bf16_compiling_changes_less_than_bf16_itself(tmp_path: Path, small: Callable[..., Recipe]) -> None:
    recipe = small("decoder", "full", [], precision="bf16")
    compiled, plain = compiled_beside_plain(tmp_path, recipe)
    exact = train(differing(recipe, compile=False, precision="fp32"), tmp_path / "exact")
    assert 0 < distance(compiled, plain) < distance(plain, exact)


@pytest.mark.slow
def test_a_compiled_run_goes_on_where_it_stopped(
    tmp_path: Path, small: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "COMPILER", "aot_eager")
    recipe = small("decoder", "full", [ALWAYS])
    stop(recipe, tmp_path / "run", "second", 2)
    assert_near(train(recipe, tmp_path / "run", resume=True), train(recipe, tmp_path / "whole"))


def test_without_a_compiler_it_is_said_before_anything_is_loaded(
    toy: ToyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy(training={"compile": True})
    assert missing_inputs(recipe) == []
    monkeypatch.setenv("CXX", "/opt/no/compiler")
    monkeypatch.setattr(sections, "which", lambda name: None)
    (said,) = missing_inputs(recipe)
    assert said.startswith("training.compile: needs a C++ compiler, and none is found here; install g++")
    with pytest.raises(UsageError, match=r"training\.compile: needs a C\+\+ compiler"):
        prepare(recipe)


def test_a_compiler_that_fails_is_told_in_one_line(toy: ToyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no Triton")

    monkeypatch.setattr(arguments, "COMPILER", fails)
    with pytest.raises(UsageError, match=r"training\.compile: nothing can be compiled here \(.*no Triton.*\); set it"):
        prepare(toy(training={"compile": True}))


# --- Liger ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _liger(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed, with two architectures, and a GPU were there; libraries would look for its driver."""

    def is_asked_by_clkit() -> bool:
        return str(sys._getframe(1).f_globals["__name__"]).startswith("clkit.")

    monkeypatch.setattr(sections, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", is_asked_by_clkit)
    monkeypatch.setattr(arguments, "known_to_liger", lambda: {"llama": None, "mixtral": None})


def test_liger_that_is_missing_is_refused(toy: ToyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "find_spec", lambda name: None)
    recipe = toy(training={"liger": True})
    said = "training.liger: liger-kernel is not installed: `pip install 'clkit[liger]'`"
    assert missing_inputs(recipe) == [said]
    with pytest.raises(UsageError, match=r"training\.liger: liger-kernel is not installed"):
        prepare(recipe)


@pytest.mark.usefixtures("_liger")
def test_liger_needs_a_gpu(toy: ToyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"training\.liger: its kernels are for GPUs, and none is visible here"):
        prepare(toy(training={"liger": True}))


@pytest.mark.usefixtures("_liger")
def test_liger_reaches_the_trainer_and_leaves_the_loss_to_clkit(
    toy: ToyRecipe, flat_llama: Path, tmp_path: Path
) -> None:
    found = training_arguments(toy(training={"liger": True}), "first", 0, "out")
    assert found.use_liger_kernel
    assert found.liger_kernel_config == {"fused_linear_cross_entropy": False}
    assert not training_arguments(toy(), "first", 0, "out").use_liger_kernel
    with pytest.raises(UsageError, match=r"training\.liger: has no kernels for models of type 't5'; set it to false"):
        prepare(toy(training={"liger": True}))
    prepare(toy_recipe(tmp_path, flat_llama, training={"liger": True}))
