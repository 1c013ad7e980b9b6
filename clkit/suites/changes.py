"""What a suite changes in the recipe of its runs: layer upon layer, and written as overrides of `clkit train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from clkit.errors import RecipeError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import COMMAND_LINE, RecipeDumper, Written
from clkit.section import absolute
from clkit.suites.section import Suite
from clkit.wording import did_you_mean

#: A value of the first key begins the sections anew that follow it.
_BEGUN_ANEW = {"tuning.method": ("tuning",), "tasks": ("benchmark",), "benchmark.name": ("tasks", "benchmark")}


def in_layers(*layers: Mapping[str, Written]) -> dict[str, Written]:
    """Changes to a recipe, layer upon layer, as if each were made by a recipe that extends the one below."""
    changes: dict[str, Written] = {}
    for layer in layers:
        replaced = (*layer, *(section for key in layer for section in _BEGUN_ANEW.get(key, ())))
        kept = (key for key in changes if not any(f"{key}.".startswith(f"{section}.") for section in replaced))
        changes = {**{key: changes[key] for key in kept}, **layer}
    return changes


def assignments(section: Written | None, prefix: str = "") -> Iterator[tuple[str, Written]]:
    """Each value of a section with its key as an override spells it: dots between sections."""
    if section is None or not isinstance(section.value, dict):
        return
    for key, entry in section.value.items():
        if isinstance(entry.value, dict) and entry.value:
            yield from assignments(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", entry


def paths_in(recipe: Recipe) -> set[str]:
    """What may be paths of a recipe, which has made them absolute."""
    return {text for text in _texts(recipe.model_dump()) if text.startswith("/")}


def _texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def with_paths(value: Written, paths: set[str]) -> Any:
    """Plain data in which every path is absolute, for a command that does not know the folder of the suite's file.

    Args:
        paths: those that the recipe came to have.
    """
    if isinstance(value.value, dict):
        return {key: with_paths(entry, paths) for key, entry in value.value.items()}
    if isinstance(value.value, list):
        return [with_paths(entry, paths) for entry in value.value]
    if isinstance(value.value, str) and value.value and (path := absolute(value.value)) in paths:
        return path
    return str(value.value) if isinstance(value.value, str) else value.value


def as_yaml(value: Any) -> str:
    """A value as an override has it."""
    written: str = yaml.dump(
        [value], Dumper=RecipeDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    )
    return written.strip()[1:-1]


def refuse_overruled(suite: Suite, written: Written) -> None:
    """Refuse what comes to nothing, since another key overrules it that its writer can see.

    A file that extends another, or the command line, may overrule what stands there.

    Raises:
        RecipeError: with one line per key.
    """
    overruling = {"seed": "seeds", "name": "methods"}
    overruling |= {"benchmark.order": "orders"} if suite.orders else {}
    overruling |= {"training.learning_rate": "rates"} if suite.rates else {}
    sections = {"set": written.step("set")}
    sections |= {f"methods.{name}.set": written.nearest(["methods", name]).step("set") for name in suite.methods}
    problems = [
        f"{entry.place}: {section}.{key}: has no effect, since `{by}` gives it; remove it"
        for section, changes in sections.items()
        for key, entry in assignments(changes)
        if (by := overruling.get(key)) and _stands_below(entry, written.nearest([by]))
    ]
    seeds, choose = (written.nearest(["rates", key]) for key in ("seeds", "choose"))
    if suite.rates and suite.rates.choose == "all" and suite.rates.seeds and _stands_below(seeds, choose):
        problems.append(f"{seeds.place}: rates.seeds: has no effect, since `choose: all` chooses no rate; remove it")
    if problems:
        raise RecipeError(*problems)


def _stands_below(overruled: Written, by: Written) -> bool:
    """Whether a key stands in the file of the one that overrules it, or on the command line, where nothing may."""
    return overruled.place == COMMAND_LINE or _file(overruled) == _file(by)


def _file(written: Written) -> str:
    file, _, line = written.place.rpartition(":")
    return file if line.isdecimal() else written.place


def refuse_unknown_methods(suite: Written, overrides: Sequence[str]) -> None:
    """Refuse a change to a method that the suite does not have; a whole method may be new (``methods.own={...}``).

    Raises:
        RecipeError: there is one.
    """
    keys = [override.partition("=")[0] for override in overrides]
    own = suite.value["methods"].value
    if "methods" in keys or not isinstance(own, dict):
        return
    known = [
        *own,
        *(key.removeprefix("methods.") for key in keys if key.startswith("methods.") and key.count(".") == 1),
    ]
    for key in keys:
        name = key.removeprefix("methods.")
        if key.startswith("methods.") and not any(f"{name}.".startswith(f"{one}.") for one in known):
            name = name.partition(".")[0]
            raise RecipeError(
                f"{COMMAND_LINE}: {key}: the suite has no method named '{name}'{did_you_mean(name, known)} (it has: "
                f"{', '.join(known)})"
            )
