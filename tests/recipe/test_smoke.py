"""Every shipped recipe has a miniature that keeps what it tries out."""

from __future__ import annotations

import pytest

from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipes
from clkit.recipe.smoke import smoke_recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_miniature_keeps_strategies_tuning_and_schedule(name: str) -> None:
    recipe = Recipe.load(name, ["training.schedule=cosine"])
    small = smoke_recipe(recipe)
    assert small.name == f"{recipe.name}-smoke"
    assert small.model.name == "embedded:tiny-t5"
    assert [task.name for task in small.task_recipes()] == ["topics", "reviews", "requests", "emotions"]
    assert (small.protocol, small.tuning, small.prompt) == (recipe.protocol, recipe.tuning, recipe.prompt)
    for ours, theirs in zip(small.strategies, recipe.strategies, strict=True):
        whole = theirs.model_dump()
        assert ours.model_dump() == whole | ({"per_task": {}} if "per_task" in whole else {})
    assert small.training.schedule == "cosine"
    assert small.training.learning_rate == recipe.training.learning_rate
    assert small.training.per_task == {}
    assert small.data.train_per_task == 64
