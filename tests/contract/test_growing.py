"""The law of growing: a run that was grown task by task is, to the last bit, the run that knew all tasks at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe
from clkit.strategies.registry import load_strategy
from tests.contract.settings import FAMILIES, SETTINGS, TUNINGS, Case, cases
from tests.contract.test_composition import ENTRIES, entry
from tests.interrupting import assert_same
from tests.toy import FURTHER, TASKS, toy_recipe, write_task

COMBINATIONS = [
    pytest.param(name, case, id=f"{name}-{case}")
    for name in sorted(ENTRIES)
    for case in cases(load_strategy(name), FAMILIES)
]
COMBINATIONS += [pytest.param(name, Case("encoder-heads", "full"), id=f"{name}-heads") for name in ("ewc", "lwf")]
#: Of these cases a run is grown twice; of all others once.
TWICE = {
    ("replay", "seq2seq-full"),
    ("ewc", "seq2seq-full"),
    ("ewc", "encoder-full"),
    ("olora", "seq2seq-incremental_lora"),
}


def knowing(tasks: int, folder: Path, model: Path, case: Case, name: str) -> Recipe:
    """A recipe over the first tasks, with two steps for each."""
    return toy_recipe(
        folder,
        model,
        tasks=[write_task(folder, name) for name in [*TASKS, *FURTHER][:tasks]],
        tuning=TUNINGS[case.tuning],
        strategies=[entry(name)],
        training={"batch_size": 12, "epochs": 1.0, "weight_decay": 0.1},
        evaluation={"tasks": "seen", "zero_shot": False},
        **SETTINGS[case.setting].changes,
    )


@pytest.mark.parametrize(("name", "case"), COMBINATIONS)
def test_growing_is_having_known(name: str, case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(SETTINGS[case.setting].model)
    recipes = [
        knowing(tasks, tmp_path, model, case, name) for tasks in ((1, 2, 3) if (name, str(case)) in TWICE else (1, 2))
    ]
    whole = train(recipes[-1], tmp_path / "whole")
    for index, known in enumerate(recipes):
        grown = train(known, tmp_path / "grown", resume=index > 0)
    assert_same(grown, whole)
    assert grown.recipe_yaml() == whole.recipe_yaml()
