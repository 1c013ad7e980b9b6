"""What is wrong with a recipe, one line per problem: where it is written, which key, and what is allowed there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clkit.errors import UsageError
from clkit.recipe.schema import JsonSchema, allowed, alternatives, choices, kind, linked_schema, resolved
from clkit.recipe.written import Written
from clkit.strategies.registry import load_strategy
from clkit.wording import did_you_mean

Path = tuple[str | int, ...]

_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def problem_lines(error: ValidationError, recipe: Written, schema: JsonSchema) -> list[str]:
    """One line per problem, each with the place, the key and what is allowed.

    Such as ``my.yaml:12: training.learning_rate: 'abc' is not a number (allowed: a number above 0)``.

    Args:
        schema: of the whole recipe, linked.
    """
    lines = [_line(details, recipe, schema) for details in error.errors(include_url=False)]
    return list(dict.fromkeys(lines))  # a value that fits none of several alternatives is reported once for each


def _line(details: ErrorDetails, recipe: Written, whole: JsonSchema) -> str:
    path, schema = _locate(details["loc"], recipe, whole)
    path, message = _MESSAGES.get(details["type"], _mismatch)(details, path, schema, recipe)
    key = _dotted(path[:-1] if details["type"] == "unknown_key" else path, recipe)
    return ": ".join(part for part in (recipe.nearest(path).place, key, message) if part)


def _locate(location: Sequence[str | int], recipe: Written, schema: JsonSchema) -> tuple[Path, JsonSchema]:
    """The path of a location as it is written, and the schema there.

    Pydantic's locations also name the alternative that it tried. Those parts are no keys and are left out; where
    nothing tells the alternatives apart, the path ends at the value that fits none of them.
    """
    path: Path = ()
    here = recipe
    for part in location:
        options = alternatives(schema)
        mapping = resolved(schema).get("discriminator", {}).get("mapping", {})
        if part in mapping:
            schema = mapping[part]
            continue
        if len(options) > 1 or part == "[key]":
            break
        below = here.step(part) or Written(None, here.place)
        schema = _strategy_schema(below) if path == ("strategies",) else _below(options[0], part)
        path, here = (*path, part), below
    return path, schema


def _below(schema: JsonSchema, part: str | int) -> JsonSchema:
    if isinstance(part, int) and 0 <= part < len(schema.get("prefixItems", ())):
        return dict(schema["prefixItems"][part])
    for found in (schema.get("properties", {}).get(part), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(found, Mapping):
            return dict(found)
    return {}


def _strategy_schema(entry: Written) -> JsonSchema:
    try:
        return linked_schema(load_strategy(entry.name or "").Options)
    except UsageError:
        return {}


def _dotted(path: Path, recipe: Written) -> str:
    """The path as an override spells it: strategies and tasks by their name."""
    text = ""
    for depth, part in enumerate(path):
        name = recipe.nearest(path[: depth + 1]).name
        if isinstance(part, int) and depth and isinstance(recipe.nearest(path[:depth]).value, list):
            text += f".{name}" if name else f"[{part}]"
        else:
            text += f".{part}"
    return text.removeprefix(".")


def _in_yaml(value: Any) -> str:
    """The value as YAML would write it, shortened."""
    if isinstance(value, Mapping):
        return "a section with keys"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]}..."
    return repr(text) if isinstance(value, str) else text


#: The path of the key that is wrong, and what is wrong with it.
_Message = tuple[Path, str]


def _mismatch(details: ErrorDetails, path: Path, schema: JsonSchema, recipe: Written) -> _Message:
    several = len(alternatives(schema)) > 1
    value = recipe.nearest(path).plain() if several else details["input"]
    word = _in_yaml(value)
    if details["type"] == "string_pattern_mismatch" and details["loc"][-1] == "[key]":
        fitting = allowed({"type": "string", "pattern": details["ctx"]["pattern"]})
        return path[:-1], f"the key {word} does not fit (allowed: {fitting})"
    if details["loc"][-1] == "[key]":
        wrong = "is not one of the choices" if isinstance(details["input"], str) else "is not text; put it in quotes"
        return path[:-1], f"the key {word} {wrong}"
    if several:
        what = f"{word} does not fit"
    elif details["type"] in ("too_short", "too_long"):
        what = f"{len(value)} {'entry' if len(value) == 1 else 'entries'} given"
    elif details["type"] in _OUT_OF_RANGE:
        what = f"{word} is out of range"
    elif details["type"] == "literal_error":
        what = f"{word} is not one of the choices{did_you_mean(str(value), choices(schema))}"
    elif details["type"] in ("int_type", "float_type") and _is_number(value):
        what = f"{word} is text; write the number without quotes"
    elif details["type"] == "string_type" and isinstance(value, int | float):
        what = f"{word} is not text; put it in quotes"
    elif details["type"].endswith("_type"):
        what = f"{word} is not {kind(schema)}"
    else:
        what = f"{word} does not fit"
    limits = "" if allowed(schema) == kind(schema) else f" (allowed: {allowed(schema)})"
    return path, what + limits


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value if isinstance(value, str) else ""))
    except ValueError:
        return False


def _missing(details: ErrorDetails, path: Path, schema: JsonSchema, recipe: Written) -> _Message:
    described = resolved(schema).get("description")  # a plugin's options may leave it out
    needed = f"{described[:1].lower()}{described[1:]}".removesuffix(".") if described else kind(schema)
    return path, f"missing (needed: {needed})"


def _alternative(details: ErrorDetails, path: Path, schema: JsonSchema, recipe: Written) -> _Message:
    """The key that tells alternatives apart is missing or unknown."""
    choice = resolved(schema)["discriminator"]
    mapping = choice["mapping"]
    tag = details.get("ctx", {}).get("tag")
    what = "missing" if tag is None else f"'{tag}' is not one of the choices{did_you_mean(tag, mapping)}"
    given = details["input"] if tag is None and isinstance(details["input"], Mapping) else {}
    for key in given:
        having = [name for name, option in mapping.items() if key in option["properties"]]
        if having and len(having) < len(mapping):
            what += f", and '{key}' needs {' or '.join(having)}"
            break
    return (*path, choice["propertyName"]), f"{what} (allowed: {', '.join(mapping)})"


def _own_words(details: ErrorDetails, path: Path, schema: JsonSchema, recipe: Written) -> _Message:
    """A check of clkit's own: its message says it all, and begins with a key where it is about one."""
    message = details["msg"].removeprefix("Value error, ")
    key = re.match(r"([\w.-]+): ", message)
    return ((*path, *key[1].split(".")), message[key.end() :]) if key else (path, message)


_MESSAGES: dict[str, Callable[[ErrorDetails, Path, JsonSchema, Written], _Message]] = {
    "missing": _missing,
    "unknown_key": _own_words,
    "union_tag_invalid": _alternative,
    "union_tag_not_found": _alternative,
    "value_error": _own_words,
    "incoherent": _own_words,
    "unknown_strategy": _own_words,
    "strategy_name": _own_words,
}
