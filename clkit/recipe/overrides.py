"""`key=value` overrides of a recipe, as they are written on the command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from clkit.errors import RecipeError, UsageError
from clkit.recipe.written import COMMAND_LINE, Written, extended, merged, parse
from clkit.section import did_you_mean

Target = TypeVar("Target", str, Path)

#: Sections of a recipe that decide what a model is tested on, and how.
TESTED = ("tasks", "benchmark", "prompt", "data", "evaluation", "objective")
NAMED_LISTS = {"strategies": "strategy", "tasks": "task"}


def overridden(recipe: Written, overrides: Sequence[str]) -> Written:
    """The recipe with the overrides applied; of two for one key the later one holds.

    Single entries of a list are changed after everything else, so that ``strategies=[{name: migu}]`` and
    ``strategies.migu.threshold=0.5`` can stand in any order.

    Raises:
        RecipeError: an override is malformed or names a strategy or task that the recipe does not have.
    """
    problems: list[str] = []
    child = Written({}, recipe.place)
    entries: list[tuple[str, str, Written]] = []
    for override in overrides:
        try:
            key, value = _split(override)
        except RecipeError as error:
            problems += error.problems
            continue
        first, _, rest = key.partition(".")
        if first in NAMED_LISTS and rest:
            entries.append((first, rest, value))
        else:
            child = merged(child, _nested(key.split("."), value))
    recipe = extended(recipe, child)
    for first, rest, value in entries:
        try:
            recipe = _with_entry(recipe, first, rest, value)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(*problems)
    return recipe


def without_target(target: Target | None, overrides: Sequence[str]) -> tuple[Target | None, list[str]]:
    """Where a command's first word, which names a run or a recipe, may be left out: it may be an override itself."""
    key, equals, _ = str(target or "").partition("=")
    if equals and "/" not in key and not Path(str(target)).exists():
        return None, [str(target), *overrides]
    return target, list(overrides)


def keep_model(overrides: Sequence[str], known: Collection[str]) -> None:
    """Refuse overrides of what made the model of a run: of a model that is trained, they would change nothing.

    Args:
        known: all sections of a recipe; others are left to be told where they are read.

    Raises:
        UsageError: there is one.
    """
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section in known and section not in TESTED:
            tested = ", ".join(TESTED)
            raise UsageError(f"{section}: the model is the run's, as it was trained; what can be changed: {tested}")


def _split(override: str) -> tuple[str, Written]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"{COMMAND_LINE}: '{override}' is no override; write key=value without spaces, as in training.epochs=2"
        )
    try:
        value = parse(text, Path.cwd(), COMMAND_LINE, lines=False)
    except RecipeError as error:
        reason = error.problems[0].removeprefix(f"{COMMAND_LINE}: ")
        raise RecipeError(f"{COMMAND_LINE}: {key}: {reason}") from None
    if value is None:
        raise RecipeError(f"{COMMAND_LINE}: {key}: no value after '='; write {key}=null to unset it")
    return key, value


def _nested(keys: Sequence[str], value: Written) -> Written:
    for key in reversed(keys):
        value = Written({key: value}, value.place)
    return value


def _with_entry(recipe: Written, key: str, rest: str, value: Written) -> Written:
    """The recipe with a part of the list under ``key`` replaced; ``rest`` begins with the entry's name."""
    items = recipe.value[key].value if key in recipe.value else []
    entries = [entry for entry in items if entry.name is not None] if isinstance(items, list) else []
    # A name may hold dots, so it is looked for at the start of what follows, the longest first.
    for entry in sorted(entries, key=lambda entry: len(str(entry.name)), reverse=True):
        if rest == entry.name or rest.startswith(f"{entry.name}."):
            below = rest.removeprefix(str(entry.name)).removeprefix(".")
            changed = merged(entry, _nested(below.split("."), value)) if below else value
            replaced = Written([changed if item is entry else item for item in items], recipe.value[key].place)
            return Written({**recipe.value, key: replaced}, recipe.place)
    kind, name = NAMED_LISTS[key], rest.partition(".")[0]
    names = [str(entry.name) for entry in entries]
    has = f"it has: {', '.join(names)}" if names else f"it has no {key}"
    raise RecipeError(
        f"{COMMAND_LINE}: {key}.{rest}: the recipe has no {kind} named '{name}'{did_you_mean(name, names)} ({has})"
    )
