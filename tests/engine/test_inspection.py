"""Magnitudes of a run's stages against what numpy gives for the same forward passes and the saved weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from clkit.engine.evaluate import learned_stages
from clkit.engine.inspection import Magnitudes, Watching, batches, inspect_stages
from clkit.engine.prepare import labels_of, load_learner
from clkit.errors import ModelError
from clkit.events import Listener
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.toy import Finished, ToyRecipe, toy_recipe

Q = "encoder.block.0.layer.0.SelfAttention.q"


def inspected(run: RunFolder, *names: str, **options: Any) -> Magnitudes:
    recipe = Recipe.load(run.recipe_path)
    watching = Watching(**{"layers": ["attention"], "examples": 12, "batch": 4} | options)
    stages = [learned_stages(run, name) for name in names]
    return inspect_stages(recipe, load_tasks(recipe), stages, watching, Listener())


@pytest.fixture(scope="session")
def short(toy_tasks: Path, toy_t5: Path, finished: Finished) -> RunFolder:
    """Of two layers, so that there is one to choose."""
    changes: dict[str, Any] = {"training": {"epochs": 0.4}, "data": {"test_per_task": 4}}
    return finished(toy_recipe(toy_tasks, toy_t5, **changes, evaluation={"zero_shot": False}))


@pytest.fixture(scope="session")
def all_stages(short: RunFolder) -> Magnitudes:
    return inspected(short, "0", "1", "2")


def test_magnitudes_against_numpy(short: RunFolder, all_stages: Magnitudes) -> None:
    recipe = Recipe.load(short.recipe_path)
    tasks = load_tasks(recipe)
    family = load_learner(recipe, labels_of(tasks), learned_stages(short, "1"))
    outputs: list[np.ndarray] = []
    layer = family.model.get_submodule(Q)
    layer.register_forward_hook(lambda _, __, out: outputs.append(out.detach().double().abs().numpy()))
    one = all_stages.stages[1].layers[Q]
    for index, task in enumerate(tasks):
        outputs.clear()
        masks = []
        everything = Watching([Q], examples=24, batch=4)
        for batch in batches(family, task, recipe, everything, Listener()):
            family.model(**batch)
            masks.append(batch["attention_mask"].numpy().astype(bool))
        sums = np.stack([out[mask].sum(axis=0) for out, mask in zip(outputs, masks, strict=True)])
        assert one.n[index].sum() == pytest.approx(1)
        # Drawn are 12 of the 24 examples: all of them would give about, but not exactly, the same.
        whole = sums.sum(axis=0) / sums.sum()
        assert np.corrcoef(whole, one.n[index].numpy())[0, 1] > 0.9
    assert inspected(short, "1", examples=24).stages[0].layers[Q].n.numpy()[-1] == pytest.approx(whole, rel=1e-5)
    tops = np.argsort(-sums, axis=1, kind="stable")[:, :5]  # ⌈0.3 · 16⌉
    last = inspected(short, "1", examples=24).stages[0].layers[Q]
    chosen = np.stack([np.isin(np.arange(16), top) for top in tops])
    assert last.chosen[-1].numpy() == pytest.approx(chosen.mean(axis=0))
    assert float(last.persistence[-1]) == pytest.approx((chosen[1:] & chosen[:-1]).sum(axis=1).mean() / 5)


def test_movement_is_that_of_the_saved_weights(short: RunFolder, all_stages: Magnitudes) -> None:
    first, second = (
        load_file(short.stage_folder(i, n) / "model/model.safetensors") for i, n in ((1, "first"), (2, "second"))
    )
    assert [(one.name, one.since, [*one.learned]) for one in all_stages.stages] == [
        ("zero-shot", None, []),
        ("01-first", "zero-shot", ["first"]),
        ("02-second", "01-first", ["second"]),
    ]
    expected = np.linalg.norm((second[f"{Q}.weight"] - first[f"{Q}.weight"]).double().numpy(), axis=1)
    assert all_stages.stages[2].moved[Q].numpy() == pytest.approx(expected, rel=1e-4)
    # Over a stage that is left out: what both tasks changed.
    skipped = inspected(short, "0", "2").stages[1]
    assert (skipped.since, [*skipped.learned]) == ("zero-shot", ["first", "second"])
    assert not torch.equal(skipped.moved[Q], all_stages.stages[2].moved[Q])


@pytest.mark.parametrize("method", ["lora", "lora with dora", "incremental_lora"])
def test_adapters_move_the_rows_of_the_merged_weight(
    method: str, toy: ToyRecipe, flat_t5: Path, finished: Finished
) -> None:
    method, _, kind = method.partition(" with ")
    tuning = {"method": method, "rank": 2, "targets": ["q"], "use_dora": kind == "dora"}
    run = finished(toy(tuning=tuning, training={"epochs": 0.4}, evaluation={"zero_shot": False}))
    moved = inspected(run, "0", "1", "2").stages[2].moved
    weights = []
    base = AutoModelForSeq2SeqLM.from_pretrained(flat_t5)
    for stage in run.stages():
        if method == "lora":
            base = AutoModelForSeq2SeqLM.from_pretrained(flat_t5)
        base = PeftModel.from_pretrained(base, stage.folder / "adapter").merge_and_unload()
        weights.append(base.get_submodule(Q).weight.detach().double().numpy().copy())
    assert moved[Q].numpy() == pytest.approx(np.linalg.norm(weights[1] - weights[0], axis=1), rel=1e-3)
    assert not moved[Q.replace(".q", ".k")].any()


def test_each_task_alone_is_compared_with_the_start(toy: ToyRecipe, finished: Finished) -> None:
    run = finished(toy(protocol="per_task", training={"epochs": 0.4}, evaluation={"zero_shot": False}))
    stages = inspected(run, "0", "1", "2").stages
    assert [(one.since, [*one.learned]) for one in stages[1:]] == [("zero-shot", ["first"]), ("zero-shot", ["second"])]
    assert [one.since for one in inspected(run, "1", "2").stages] == [None, None]


def test_depth_and_an_entry_that_fits_nothing(short: RunFolder) -> None:
    found = inspected(short, "1", layers=["feed_forward"], depth="last")
    assert {*found.roles.values()} == {"feed_forward"}
    assert all(".block.1." in layer for layer in found.roles)
    with pytest.raises(ModelError, match=r"--layers: 'mlp' fits no linear layer"):
        inspected(short, "1", layers=["mlp"])
