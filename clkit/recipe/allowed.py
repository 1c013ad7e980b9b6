"""What a key of a recipe allows, in plain English, from its JSON Schema."""

from __future__ import annotations

from clkit.recipe.schema import JsonSchema, alternatives, resolved
from clkit.tasks.sections import NAME_PATTERN

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


def kind(schema: JsonSchema) -> str:
    """What a value must be at all, without its limits: ``a number``, ``a list``."""
    schema = resolved(schema)
    return _KINDS.get(schema.get("type", ""), "of an allowed kind")


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
    if "additionalProperties" in schema:
        return f"a mapping from keys to {allowed(schema['additionalProperties'])}"
    return kind(schema)


def _range(schema: JsonSchema) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[limit]}" for limit, word in words.items() if limit in schema]
    return f" {', '.join(limits)}" if limits else ""


def _length(schema: JsonSchema) -> str:
    fewest, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is not None:
        return f" of {fewest} entries" if fewest == most else f" of {fewest} to {most} entries"
    return f" of at least {fewest} {'entry' if fewest == 1 else 'entries'}" if fewest else ""
