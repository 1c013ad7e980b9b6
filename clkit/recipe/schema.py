"""The JSON Schema of a recipe, and in plain English what it allows: for editors, the reference and error messages."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from clkit.section import Section
from clkit.tasks.sections import NAME_PATTERN
from clkit.wording import between

JsonSchema = dict[str, Any]

_REFERENCE = "#/$defs/"
_PATTERNS = {NAME_PATTERN: "letters, digits, dots, dashes and underscores, beginning with a letter or digit"}
_KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a section with keys",
    "null": "null",
}


@cache
def described_schema(model: type[Section]) -> JsonSchema:
    """The JSON Schema of a section, each property with its description. Not to be changed."""
    schema: JsonSchema = _without_titles(model.model_json_schema())
    for name, field in model.model_fields.items():
        schema["properties"][name].setdefault("description", field.description)
    return schema


def _without_titles(value: Any) -> Any:
    """The schema without the titles that pydantic derives from the names; a mapping's values always in one place."""
    if isinstance(value, dict):
        if patterns := value.get("patternProperties"):  # where names are limited
            value = {**value, "additionalProperties": next(iter(patterns.values()))}
        return {
            key: _without_titles(entry)
            for key, entry in value.items()
            if not (key == "title" and isinstance(entry, str)) and key != "patternProperties"
        }
    return [_without_titles(entry) for entry in value] if isinstance(value, list) else value


@cache
def linked_schema(model: type[Section]) -> JsonSchema:
    """The described schema with what each reference leads to in its place, which may close a circle."""
    schema = copy.deepcopy(described_schema(model))
    _link(schema, schema.get("$defs", {}))
    return schema


def _link(value: Any, definitions: JsonSchema) -> None:
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(entry, str) and entry.startswith(_REFERENCE):
            value[key] = definitions[entry.removeprefix(_REFERENCE)]
        else:
            _link(entry, definitions)


def resolved(schema: JsonSchema) -> JsonSchema:
    """The schema that a linked reference leads to, without the alternative null."""
    if "$ref" in schema:
        return resolved(schema["$ref"])
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    return resolved(options[0]) if len(options) == 1 else schema


def alternatives(schema: JsonSchema) -> list[JsonSchema]:
    """The schemas of which a value must fit one; the schema itself where there is no choice."""
    schema = resolved(schema)
    return [resolved(option) for option in schema.get("oneOf") or schema.get("anyOf") or [schema]]


def kind(schema: JsonSchema) -> str:
    """What a value must be at all, without its limits: ``a number``, ``a list``."""
    return _KINDS.get(resolved(schema).get("type", ""), "of an allowed kind")


def choices(schema: JsonSchema) -> list[str]:
    """The words that are allowed, where there is a choice among words."""
    schema = resolved(schema)
    return [str(choice) for choice in schema.get("enum", [schema["const"]] if "const" in schema else [])]


def allowed(schema: JsonSchema) -> str:
    """All that is allowed: ``a number above 0``, ``fp32, bf16, fp16``, ``a list of at least 2 entries, each text``."""
    nullable = any(option.get("type") == "null" for option in schema.get("anyOf", []))
    options = [_allowed(option) for option in alternatives(schema)]
    return " or ".join(dict.fromkeys([*options, *(["null"] if nullable else [])]))


def _allowed(schema: JsonSchema) -> str:
    if choices(schema):
        return ", ".join(choices(schema))
    if schema.get("type") in ("number", "integer"):
        return kind(schema) + _range(schema)
    if schema.get("type") == "string":
        longest = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
        return _PATTERNS.get(schema.get("pattern", ""), "text") + longest
    if "prefixItems" in schema:
        return f"a list of {', '.join(map(allowed, schema['prefixItems']))}"
    if schema.get("type") == "array":
        entry = allowed(schema["items"])
        return f"a list{_length(schema)}" if "section" in entry else f"a list{_length(schema)}, each entry {entry}"
    if "properties" in schema:
        return f"a section with the keys {', '.join(schema['properties'])}"
    if entries := schema.get("additionalProperties"):
        return f"a mapping from keys to {'values' if entries is True else allowed(entries)}"
    return kind(schema)


def _range(schema: JsonSchema) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[limit]}" for limit, word in words.items() if limit in schema]
    return f" {', '.join(limits)}" if limits else ""


def _length(schema: JsonSchema) -> str:
    fewest, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is not None:
        return f" of {between((fewest, most))} entries"
    return f" of at least {fewest} {'entry' if fewest == 1 else 'entries'}" if fewest else ""
