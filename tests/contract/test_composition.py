"""Every two built-in strategies either work together or are refused with the reason."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from clkit.engine.evaluate import learned_stages
from clkit.engine.sequence import train
from clkit.errors import RecipeError
from clkit.models.loading import load_model
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.registry import built_in, load_strategy
from tests.contract.settings import TUNINGS
from tests.toy import toy_recipe

#: How each strategy is named in the toy's recipe, and what it logs when it is at work.
ENTRIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "ewc": ({"ewc_lambda": 100.0, "examples": 8}, "ewc_penalty"),
    "lwf": ({}, "lwf_loss"),
    "migu": ({"threshold": 0.5}, "migu_masked_share"),
    "olora": ({"lambda1": 1.0}, "olora_orthogonality"),
    "osf": ({}, "osf_preserved_share"),
    "replay": ({"number": 4}, "replay_share"),
}
PAIRS = list(combinations(sorted(built_in()), 2))


def entry(name: str) -> dict[str, Any]:
    return {"name": name, **ENTRIES[name][0]}


def common_tuning(names: tuple[str, ...]) -> str | None:
    shared = frozenset.intersection(*(load_strategy(name).tunings for name in names))
    return next((method for method in TUNINGS if method in shared), None)


def conflict(first: str, second: str) -> bool:
    return second in load_strategy(first).conflicts or first in load_strategy(second).conflicts


WORKING = [pair for pair in PAIRS if common_tuning(pair) and not conflict(*pair)]


def recipe(folder: Path, model: Path, names: tuple[str, ...], **changes: Any) -> Recipe:
    tuning = common_tuning(names)
    assert tuning is not None
    strategies = [entry(name) for name in names]
    return toy_recipe(folder, model, tuning=TUNINGS[tuning], strategies=strategies, **changes)


def weights(run: RunFolder, recipe: Recipe) -> dict[str, torch.Tensor]:
    return dict(load_model(recipe.model, recipe.tuning, learned_stages(run, None)).model.named_parameters())


def test_every_built_in_strategy_is_tried() -> None:
    assert set(ENTRIES) == set(built_in())
    assert {("migu", "replay"), ("migu", "olora"), ("ewc", "replay"), ("ewc", "migu")} <= set(WORKING)


@pytest.mark.parametrize("names", WORKING, ids="+".join)
def test_two_strategies_work_together_in_either_order(names: tuple[str, str], tmp_path: Path, flat_t5: Path) -> None:
    """Both are at work, and which of them stands first changes nothing."""
    results = []
    for order in (names, names[::-1]):
        made = recipe(tmp_path, flat_t5, order, training={"epochs": 1.0}, evaluation={"zero_shot": False})
        run = train(made, tmp_path / "-".join(order))
        second = [line for line in run.log.read() if line["event"] == "step" and line["task"] == "second"]
        for name in order:
            logged = ENTRIES[name][1]
            assert logged is None or all(logged in line for line in second)
        results.append(weights(run, made))
    for name, ours in results[0].items():
        torch.testing.assert_close(ours, results[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [pair for pair in PAIRS if conflict(*pair)], ids="+".join)
def test_a_conflict_is_refused_with_its_reason(names: tuple[str, str], tmp_path: Path, flat_t5: Path) -> None:
    reasons = {load_strategy(a).conflicts.get(b) for a, b in (names, names[::-1])} - {None}
    with pytest.raises((RecipeError, ValueError), match="conflicts with") as error:
        recipe(tmp_path, flat_t5, names)
    assert any(str(reason) in str(error.value) for reason in reasons)


@pytest.mark.parametrize("names", [pair for pair in PAIRS if not common_tuning(pair)], ids="+".join)
def test_strategies_without_a_common_tuning_are_refused(names: tuple[str, str], tmp_path: Path, flat_t5: Path) -> None:
    for tuning in TUNINGS.values():
        with pytest.raises((RecipeError, ValueError), match=r"does not work with tuning\.method"):
            toy_recipe(tmp_path, flat_t5, tuning=tuning, strategies=[entry(name) for name in names])


def test_four_at_once_resume_to_the_same_bytes(tmp_path: Path, flat_t5: Path) -> None:
    made = recipe(tmp_path, flat_t5, ("replay", "ewc", "lwf", "migu"))
    whole = train(made, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "tasks" / "02-second")
    resumed = train(made, tmp_path / "stopped", resume=True)
    assert (resumed.path / "matrix.json").read_bytes() == (whole.path / "matrix.json").read_bytes()
    ours, theirs = weights(whole, made), weights(resumed, made)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
