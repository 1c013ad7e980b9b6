"""The JSON Schema of a recipe file, and the reference of all its keys."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

from clkit.recipe.recipe import Recipe
from clkit.recipe.schema import JsonSchema, allowed, alternatives, described_schema, linked_schema, resolved
from clkit.section import Section


def recipe_schema() -> JsonSchema:
    """JSON Schema (draft 2020-12) of a recipe file.

    A file that extends another may leave out any key, so sections require none; `clkit validate` says what is missing.
    """
    schema = copy.deepcopy(described_schema(Recipe))
    sources = schema["$defs"]["TaskRecipe"]["properties"]["source"]["discriminator"]["mapping"].values()
    # A task is replaced as a whole, with its source, by a recipe that extends another, so each must be complete.
    complete = {"TaskRecipe", *(reference.rpartition("/")[2] for reference in sources)}
    for name, definition in schema["$defs"].items():
        if name not in complete:
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


def field_reference(model: type[Section] = Recipe) -> str:
    """All keys of a recipe as Markdown: one table per section with what is allowed, the default and the meaning.

    A section that stands at several places is told where it stands first.
    """
    found: dict[str, str] = {}
    for title, table in _tables("Top level", "", linked_schema(model)):
        found.setdefault(table, title)
    return "\n".join(f"## {title}\n\n{table}" for table, title in found.items())


def _tables(title: str, prefix: str, section: JsonSchema) -> Iterator[tuple[str, str]]:
    yield title, _table(section)
    for key, schema in section["properties"].items():
        entries = resolved(schema).get("items") or resolved(schema).get("additionalProperties")
        described = alternatives(entries if isinstance(entries, dict) else schema)
        options = [option for option in described if "properties" in option]
        for option in options:
            which = f": `{_tag(option)}`" if len(options) > 1 else ": each" if entries else ""
            yield from _tables(f"`{prefix}{key}`{which}", f"{prefix}{key}.", option)


def _tag(section: JsonSchema) -> str:
    constants = (value["const"] for value in section["properties"].values() if "const" in value)
    return str(next(constants))


def _table(section: JsonSchema) -> str:
    lines = [section["description"], "", "| key | allowed | default | meaning |", "|---|---|---|---|"]
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
