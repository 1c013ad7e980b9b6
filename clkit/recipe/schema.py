"""The JSON Schema of a recipe file, for editors and as the single source of the reference and of error messages."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from clkit.recipe.recipe import Recipe

JsonSchema = dict[str, Any]

# Entries of these lists are replaced as a whole by a recipe that extends another, so each must be complete.
_COMPLETE = ("TaskRecipe", "FilesSource", "FolderSource", "HubSource", "SampleSource")


def recipe_schema() -> JsonSchema:
    """JSON Schema (draft 2020-12) of a recipe file.

    A file that extends another may leave out any key, so sections require none; `clkit validate` says what is missing.
    """
    schema = copy.deepcopy(model_schema())
    for name, definition in schema["$defs"].items():
        if name not in _COMPLETE:
            definition.pop("required", None)
    tuning = schema["properties"]["tuning"]
    tuning["anyOf"] = tuning.pop("oneOf")  # without `method`, keys that several methods share fit each of them
    strategies = schema["properties"]["strategies"]["items"]["anyOf"]
    strategies.append(
        {
            "description": "A strategy of your own, written as `module:Class`.",
            "properties": {"name": {"description": "`module:Class`.", "pattern": ":", "type": "string"}},
            "required": ["name"],
            "type": "object",
        }
    )
    for section in schema["properties"].values():
        if isinstance(section.get("default"), dict):
            del section["default"]  # it repeats the defaults of the section's keys
    extends = {"description": "A recipe that this one extends: a shipped name, or a path from here.", "type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clkit recipe",
        "description": schema["description"],
        "type": "object",
        "additionalProperties": False,
        "properties": {"extends": extends, **schema["properties"]},
        "$defs": schema["$defs"],
    }


@cache
def model_schema() -> JsonSchema:
    """The JSON Schema of a whole recipe, each property with its description. Not to be changed."""
    schema: JsonSchema = _without_titles(Recipe.model_json_schema())
    for name, field in Recipe.model_fields.items():
        schema["properties"][name].setdefault("description", field.description)
    return schema


def _without_titles(value: Any) -> Any:
    """The schema without the titles that pydantic derives from the names."""
    if isinstance(value, dict):
        return {
            key: _without_titles(entry)
            for key, entry in value.items()
            if not (key == "title" and isinstance(entry, str))
        }
    return [_without_titles(entry) for entry in value] if isinstance(value, list) else value


def resolved(schema: JsonSchema) -> JsonSchema:
    """The schema that a reference leads to, without the alternative null."""
    if "$ref" in schema:
        return resolved(model_schema()["$defs"].get(schema["$ref"].rpartition("/")[2], {}))
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    return resolved(options[0]) if len(options) == 1 else schema


def alternatives(schema: JsonSchema) -> list[JsonSchema]:
    """The schemas of which a value must fit one; the schema itself where there is no choice."""
    schema = resolved(schema)
    return [resolved(option) for option in schema.get("oneOf") or schema.get("anyOf") or [schema]]
