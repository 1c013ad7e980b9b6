"""A recipe in miniature: the same strategies and training on the embedded model and sample, in under a minute or so."""

from __future__ import annotations

from typing import Any

from clkit.recipe.recipe import Recipe

MINIATURE: dict[str, dict[str, Any]] = {
    "model": {"name": "embedded:tiny-t5"},
    "benchmark": {"name": "sample"},
    "data": {"train_per_task": 64, "test_per_task": 20},
    "training": {"batch_size": 16, "epochs": 1.0, "log_every": 1},
    "general.lm_eval": {"limit": 8},
}


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with a small model, a few examples of the sample's tasks, and one epoch each.

    Everything else stays as it is: strategies, tuning, schedule, precision, prompt, evaluation. What is said of single
    tasks goes, since the tasks are others. The run is named `NAME-smoke`.
    """
    values = recipe.model_dump()
    values["name"] = f"{recipe.name}-smoke"
    values["tasks"] = None
    values["model"], values["benchmark"] = MINIATURE["model"], MINIATURE["benchmark"]
    values["data"] |= {"train_per_label": None} | MINIATURE["data"]
    values["strategies"] = [entry | ({"per_task": {}} if "per_task" in entry else {}) for entry in values["strategies"]]
    values["training"] |= {"micro_batch_size": None, "per_task": {}} | MINIATURE["training"]
    if values["general"] and values["general"]["lm_eval"]:
        values["general"]["lm_eval"] |= MINIATURE["general.lm_eval"]
    return Recipe.model_validate(values)
