"""The JSON Schema of a recipe file, and the reference of all its keys."""

from __future__ import annotations

import copy
import json

from clkit.recipe.recipe import Recipe
from clkit.recipe.schema import JsonSchema, allowed, alternatives, described_schema, linked_schema, resolved

# Entries of these lists are replaced as a whole by a recipe that extends another, so each must be complete.
_COMPLETE = ("TaskRecipe", "FilesSource", "FolderSource", "HubSource", "SampleSource")


def recipe_schema() -> JsonSchema:
    """JSON Schema (draft 2020-12) of a recipe file.

    A file that extends another may leave out any key, so sections require none; `clkit validate` says what is missing.
    """
    schema = copy.deepcopy(described_schema(Recipe))
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


def field_reference() -> str:
    """All keys of a recipe as Markdown: one table per section with what is allowed, the default and the meaning."""
    schema = linked_schema(Recipe)
    properties = schema["properties"]
    tables = [_table("Top level", schema)]
    for key, section in properties.items():
        if key == "strategies":
            options = [_table(f"`strategies`: `{_tag(option)}`", option) for option in alternatives(section["items"])]
            tables += options
        elif key == "tasks":
            tables += _task_tables(section)
        else:
            sections = [option for option in alternatives(section) if "properties" in option]
            for option in sections:
                tag = f": `{_tag(option)}`" if len(sections) > 1 else ""
                tables.append(_table(f"`{key}`{tag}", option))
        if key == "general":
            lm_eval = alternatives(section)[0]["properties"]["lm_eval"]
            tables.append(_table("`general.lm_eval`", alternatives(lm_eval)[0]))
        if key == "training":
            per_task = alternatives(section)[0]["properties"]["per_task"]["additionalProperties"]
            tables.append(_table("`training.per_task`: each task", alternatives(per_task)[0]))
    return "\n".join(tables)


def _task_tables(section: JsonSchema) -> list[str]:
    (task,) = alternatives(alternatives(section)[0]["items"])
    sources = alternatives(task["properties"]["source"])
    return [
        _table("`tasks`: each task", task),
        *(_table(f"`source` of a task: `{_tag(source)}`", source) for source in sources),
    ]


def _tag(section: JsonSchema) -> str:
    constants = (value["const"] for value in section["properties"].values() if "const" in value)
    return str(next(constants))


def _table(title: str, section: JsonSchema) -> str:
    head = ["| key | allowed | default | meaning |", "|---|---|---|---|"]
    lines = [f"## {title}", "", section["description"], "", *head]
    for key, schema in section["properties"].items():
        cells = (f"`{key}`", _allowed(schema), _default(key, schema, section), schema["description"])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _allowed(schema: JsonSchema) -> str:
    if any("properties" in option for option in alternatives(schema)):
        return "a section, see below"
    items = resolved(schema).get("items")
    if items is not None and "properties" in alternatives(items)[0]:
        return "a list of sections, see below"
    return allowed(schema)


def _default(key: str, schema: JsonSchema, section: JsonSchema) -> str:
    if key in section.get("required", []):
        return "required"
    default = schema.get("default")
    if isinstance(default, dict) and default:
        return "its own defaults"
    return f"`{json.dumps(default, ensure_ascii=False)}`"
