"""Every shipped recipe has a miniature that keeps what it tries out."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipes
from clkit.recipe.smoke import smoke_recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_miniature_keeps_strategies_tuning_and_schedule(name: str) -> None:
    recipe = Recipe.load(name, ["training.schedule=cosine"])
    small = smoke_recipe(recipe)
    assert small.name == f"{recipe.name}-smoke"
    families = {"roberta": ("roberta", "minilm", "modernbert"), "llama": ("llama", "llama31", "smollm2", "qwen3")}
    family = next((one for one, models in families.items() if name.split("_")[0] in models), "t5")
    assert small.model.name == f"embedded:tiny-{family}"
    assert [task.name for task in small.task_recipes()] == ["topics", "reviews", "requests", "emotions"]
    for section in ("protocol", "tuning", "objective"):
        assert getattr(small, section) == getattr(recipe, section)
    assert small.prompt == recipe.prompt.model_copy(update={"chat_template": False})  # the small models have none
    for ours, theirs in zip(small.strategies, recipe.strategies, strict=True):
        whole = theirs.model_dump()
        assert ours.model_dump() == whole | ({"per_task": {}} if "per_task" in whole else {})
    assert small.training.schedule == "cosine"
    assert small.training.learning_rate == recipe.training.learning_rate
    assert small.training.per_task == {}
    assert small.data.train_per_task == 64


@pytest.mark.parametrize(
    "name",
    [
        "roberta_das",
        "roberta_das_end_tasks",
        "smollm2_order1",
        "llama_magicoder",
        "qwen3_order1",
        "llama31_8b_own_data",
        "modernbert_glue",
    ],
)
def test_the_miniature_of_an_encoder_or_a_decoder_trains(name: str, tmp_path: Path) -> None:
    recipe = smoke_recipe(Recipe.load(name))
    few = recipe.data.model_copy(update={"train_per_task": 16, "test_per_task": 4})
    recipe = recipe.model_copy(update={"data": few})
    matrix = train(recipe, tmp_path / "run").read_matrix()
    assert all(score is not None for score in matrix.outcome)


@pytest.mark.parametrize(
    ("model", "objective", "small"),
    [
        ("google-t5/t5-base", "text_to_text", "tiny-t5"),
        ("somebody/unheard-of", "text_to_text", "tiny-t5"),
        ("somebody/unheard-of", "classification", "tiny-roberta"),
        ("answerdotai/ModernBERT-base", "pretraining", "tiny-roberta"),
        ("nreimers/MiniLM-L6-H384-uncased", "pretraining", "tiny-roberta"),
        ("HuggingFaceTB/SmolLM2-135M", "pretraining", "tiny-llama"),
        ("google-t5/t5-base", "pretraining", "tiny-t5"),
    ],
)
def test_the_miniature_has_a_model_of_the_family(model: str, objective: str, small: str) -> None:
    recipe = Recipe.load("quickstart", [f"model.name={model}", f"objective={{kind: {objective}}}"])
    assert smoke_recipe(recipe).model.name == f"embedded:{small}"


@pytest.mark.parametrize("change", ["training.packing=true", "prompt.chat_template=true"])
def test_what_only_decoders_have_needs_the_miniature_of_one(change: str) -> None:
    recipe = Recipe.load("quickstart", ["model.name=somebody/unheard-of", change])
    assert smoke_recipe(recipe).model.name == "embedded:tiny-llama"
