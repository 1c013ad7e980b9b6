"""The JSON Schema describes every key, accepts what may be written, and refuses what the validator refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from clkit.recipe.recipe import Recipe
from clkit.recipe.reference import field_reference, recipe_schema
from clkit.recipe.schema import described_schema

VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())


def properties(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {}).items()
        for value in schema.values():
            yield from properties(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from properties(value)


def test_it_is_a_valid_schema_in_which_every_property_is_described() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())
    described = dict(properties(recipe_schema()))
    assert {"extends", "threshold", "dataset", "learning_rate"} <= described.keys()
    assert [name for name, schema in properties(recipe_schema()) if not schema.get("description")] == []


def test_making_it_leaves_the_models_own_schema_alone() -> None:
    recipe_schema()
    assert described_schema(Recipe)["required"] == ["name", "model"]
    assert "oneOf" in described_schema(Recipe)["properties"]["tuning"]


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"extends": "t5_order1", "benchmark": {"order": 2}},
        {"tuning": {"rank": 4}},
        {"tuning": {}},
        {"benchmark": None},
        {"strategies": [{"name": "my_package:Mine", "anything": 3}]},
        {"training": {"per_task": {"a": {"epochs": 2}}}},
    ],
)
def test_accepted(recipe: dict[str, Any]) -> None:
    VALIDATOR.validate(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"extend": "t5_order1"},
        {"training": {"lr": 3}},
        {"training": {"learning_rate": 0}},
        {"tuning": {"method": "full", "rank": 4}},
        {"strategies": [{"threshold": 0.5}]},
        {"strategies": [{"name": "migu", "threshold": 1}]},
        {"tasks": [{"name": "a"}]},
        {"tasks": []},
    ],
)
def test_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(recipe)


def test_the_reference_has_a_row_for_every_key() -> None:
    reference = field_reference()
    for name, _ in properties(described_schema(Recipe)):
        assert f"\n| `{name}` | " in reference
    assert "| `threshold` | a number above 0, below 1 | `0.7` | Share T of each layer's rows" in reference
    assert "| `method` | lora | required |" in reference
