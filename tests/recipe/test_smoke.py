"""Every shipped recipe has a miniature that keeps what it tries out."""

from __future__ import annotations

import pytest

from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipes
from clkit.recipe.smoke import smoke_recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_miniature_keeps_strategies_tuning_and_schedule(name: str) -> None:
    recipe = Recipe.load(name, ["training.schedule=cosine", "tuning.method=lora", "strategies.migu.threshold=0.4"])
    small = smoke_recipe(recipe)
    assert small.name == f"{recipe.name}-smoke"
    assert small.model.name == "embedded:tiny-t5"
    assert [task.name for task in small.task_recipes()] == ["topics", "reviews", "requests", "emotions"]
    assert (small.strategies, small.tuning, small.prompt) == (recipe.strategies, recipe.tuning, recipe.prompt)
    assert small.training.schedule == "cosine"
    assert small.training.learning_rate == recipe.training.learning_rate
    assert small.training.per_task == {}
    assert small.data.train_per_task == 64
