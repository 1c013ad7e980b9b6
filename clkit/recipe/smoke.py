"""A recipe in miniature: the same strategies and training on an embedded model and sample, in under a minute or so."""

from __future__ import annotations

import re
from typing import Any

from clkit.general.section import BUILTIN
from clkit.recipe.recipe import Recipe

#: What the names of models of a family look like, and the embedded model that stands for them; else it is tiny-t5.
STAND_INS = {
    r"bert|electra|minilm": "embedded:tiny-roberta",
    r"llama|gpt|qwen|mistral|gemma|phi|olmo|pythia|falcon|smollm": "embedded:tiny-llama",
    r"t5": "embedded:tiny-t5",
}
MINIATURE: dict[str, dict[str, Any]] = {
    "benchmark": {"name": "sample"},
    "data": {"train_per_task": 64, "test_per_task": 20},
    "training": {"batch_size": 16, "epochs": 1.0, "log_every": 1},
}


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with a small model, a few examples of the sample's tasks, and one epoch each.

    Everything else stays as it is: strategies, tuning, schedule, precision, prompt, evaluation. What is said of single
    tasks goes, since the tasks are others, and so does the model's chat template. General data of `replay` are the
    sample's. Tests of lm-eval, whose data are on the hub, are replaced by the loss on built-in text. The run is named
    `NAME-smoke`.
    """
    values = recipe.model_dump()
    values["name"] = f"{recipe.name}-smoke"
    values["tasks"] = None
    values["model"], values["benchmark"] = {"name": stand_in(recipe)}, MINIATURE["benchmark"]
    # The embedded models have no template, and the sample's answers are labels.
    values["objective"] |= {"loss_on": "last"} if recipe.learns_all_turns else {}
    values["prompt"] |= {"chat_template": False, "max_answer_tokens": None, "max_conversation_tokens": None}
    values["data"] |= {"train_per_label": None} | MINIATURE["data"]
    values["strategies"] = [_in_miniature(entry) for entry in values["strategies"]]
    values["training"] |= {"micro_batch_size": None, "per_task": {}} | MINIATURE["training"]
    if values["general"] and values["general"]["lm_eval"]:
        values["general"] |= {"texts": BUILTIN, "lm_eval": None}
    return Recipe.model_validate(values)


def _in_miniature(strategy: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {"per_task": {}} if "per_task" in strategy else {}
    if strategy.get("general"):
        changed["general"] = strategy["general"] | {"source": {"kind": "sample", "task": "reviews"}}
    return strategy | changed


def stand_in(recipe: Recipe) -> str:
    """The embedded model that stands for the recipe's: one of its family, as far as its name tells that."""
    known = (small for pattern, small in STAND_INS.items() if re.search(pattern, recipe.model.name, re.IGNORECASE))
    if recipe.training.packing or recipe.prompt.chat_template:  # which only decoders have
        return next(known, "embedded:tiny-llama")
    return next(known, "embedded:tiny-roberta" if recipe.objective.kind == "classification" else "embedded:tiny-t5")
