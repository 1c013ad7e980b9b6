"""Runs on a model whose weights are held in less than float32, beside adapters in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clkit.engine.evaluate import evaluate
from clkit.engine.prepare import labels_of, load_learner
from clkit.engine.sequence import train
from clkit.models.loading import describe
from clkit.models.sections import ModelSection
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.interrupting import stop
from tests.toy import toy_recipe

HELD = {"bfloat16": {"dtype": "bfloat16"}, "8bit": {"quantization": "8bit"}, "4bit": {"quantization": "4bit"}}
STRATEGIES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "migu": [{"name": "migu", "mask": "update"}],
    "ewc": [{"name": "ewc", "examples": 4}],
    "replay": [{"name": "replay", "ratio": 0.5}],
    "lwf": [{"name": "lwf"}],
    "olora": [{"name": "olora"}],
}


def held_recipe(folder: Path, model: Path, how: str, strategy: str) -> Recipe:
    if "quantization" in HELD[how]:
        pytest.importorskip("bitsandbytes", reason="the extra `quantization` is not installed")
    method = "incremental_lora" if strategy == "olora" else "lora"
    loss = {"metric": "loss", "tasks": "all"}
    recipe = toy_recipe(
        folder,
        model,
        tuning={"method": method, "rank": 2, "dropout": 0.1},
        strategies=STRATEGIES[strategy],
        evaluation=loss,
    )
    return Recipe.model_validate({**recipe.model_dump(), "model": {"name": str(model), **HELD[how]}})


def in_float32(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"model": ModelSection(name=recipe.model.name)})


def adapter(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.stages()[-1].folder / "adapter" / "adapter_model.safetensors")


#: What CI runs of every strategy with every way to hold weights.
QUICK = [*(("bfloat16", strategy) for strategy in STRATEGIES), ("4bit", "migu"), ("8bit", "ewc")]
OTHERS = [(how, strategy) for how in ("8bit", "4bit") for strategy in STRATEGIES if strategy != "olora"]


@pytest.mark.parametrize(
    ("how", "strategy"),
    [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS if other not in QUICK)],
)
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(
    how: str, strategy: str, flat_llama: Path, tmp_path: Path
) -> None:
    recipe = held_recipe(tmp_path, flat_llama, how, strategy)
    whole = train(recipe, tmp_path / "whole")
    stop(recipe, tmp_path / "stopped", "second", 2)
    resumed = train(recipe, tmp_path / "stopped", resume=True)
    expected, found = adapter(whole), adapter(resumed)
    assert {weight.dtype for weight in expected.values()} == {torch.float32}
    assert all(torch.equal(expected[name], found[name]) for name in expected.keys() | found.keys())
    assert whole.read_matrix().rows == resumed.read_matrix().rows
    again = [answer.scores["loss"] for answer in evaluate(whole)]
    assert again == whole.stages()[-1].payload["row"]


@pytest.mark.parametrize("how", HELD)
def test_it_learns_as_in_float32_but_for_rounding(how: str, flat_llama: Path, tmp_path: Path) -> None:
    recipe = held_recipe(tmp_path, flat_llama, how, "none")
    both = {"less": recipe, "exact": in_float32(recipe)}
    rows = [train(one, tmp_path / name).read_matrix().rows for name, one in both.items()]
    less, full = (torch.tensor(one, dtype=torch.float64) for one in rows)
    assert not torch.equal(less, full)
    torch.testing.assert_close(less, full, rtol=0.1, atol=0)


@pytest.mark.parametrize("how", HELD)
def test_the_weights_take_less(how: str, flat_llama: Path, tmp_path: Path) -> None:
    def held(recipe: Recipe) -> tuple[int, dict[str, Any]]:
        family = load_learner(recipe, labels_of(load_tasks(recipe)))
        layers = [p for name, p in family.model.named_parameters() if "proj.base_layer" in name or "mlp" in name]
        return sum(p.numel() * p.element_size() for p in layers), describe(family)

    recipe = held_recipe(tmp_path, flat_llama, how, "none")
    bytes_, told = held(recipe)
    exact, expected = held(in_float32(recipe))
    assert bytes_ * {"bfloat16": 2, "8bit": 4, "4bit": 8}[how] == exact
    assert told == expected  # parameters are counted, however they are packed
