"""Which keys two recipes differ in, which runs are repetitions of each other, and whether they read the same.

A key that one recipe lacks and the other leaves off (null, false) is no difference: an earlier clkit did not know it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from clkit.errors import RunError
from clkit.run.folder import RunFolder
from clkit.run.layout import is_run, stage_folders
from clkit.run.recipe_text import parse_recipe


def compare_recipes(old_yaml: str, new_yaml: str) -> list[str]:
    """The dotted keys in which two resolved recipes differ; lists of named things by name: `strategies.migu.threshold`.

    Raises:
        RunError: one of the two is no YAML.
    """
    return differing_keys(parse_recipe(old_yaml, "the old recipe"), parse_recipe(new_yaml, "the new recipe"))


def differing_keys(old: Any, new: Any) -> list[str]:
    """The same of recipes as plain data."""
    return [key for key, *_ in _differences("", old, new)]


def telling_apart(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each recipe says at the keys in which they differ: as few of them as tell all recipes apart.

    Their names come first, as the methods of a suite have their own; what has a name to itself needs no more.
    """
    alike: dict[Any, list[int]] = {}
    for place, recipe in enumerate(recipes):
        alike.setdefault(recipe.get("name"), []).append(place)
    if len(alike) == 1 or not all(alike):
        return _telling_apart(recipes)
    told = [str(recipe["name"]) for recipe in recipes]
    for places in alike.values():
        for place, further in zip(places, _telling_apart([recipes[place] for place in places]), strict=True):
            told[place] += f", {further}" if further else ""
    return told


def _telling_apart(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    values: list[dict[str, str]] = [{} for _ in recipes]
    for (one, old), (two, new) in combinations(enumerate(recipes), 2):
        for key, was, became in _differences("", old, new):
            values[one][key], values[two][key] = _shown(was), _shown(became)
    chosen: list[str] = []

    def told(keys: Iterable[str]) -> int:
        return len({tuple(found.get(key) for key in keys) for found in values})

    for key in dict.fromkeys(key for found in values for key in found):
        if told([*chosen, key]) > told(chosen):
            chosen.append(key)
    return [
        ", ".join(
            f"{key.removeprefix('strategies.').removeprefix('training.')} {found[key]}"
            for key in chosen
            if key in found
        )
        for found in values
    ]


def _shown(value: Any) -> str:
    """A value of a recipe in a word or two."""
    if isinstance(value, list) and isinstance(_by_name(value), dict):
        return " + ".join(_by_name(value))
    if isinstance(value, dict):
        return "yes"
    return "none" if value in (None, []) else str(value)[:40]


def read_otherwise(one: Mapping[str, Any], other: Mapping[str, Any], *splits: str) -> list[str]:
    """The keys of what two runs read under one name and that was not the same: of their models, and of these splits.

    Args:
        one, other: their fingerprints (`RunFolder.read`); what only one of them read is no difference.
    """
    found = [key for key in one if key.startswith("model.") and key in other and one[key] != other[key]]
    return found + [key for split in splits for key in _splits_otherwise(one, other, split)]


def _splits_otherwise(one: Mapping[str, Any], other: Mapping[str, Any], split: str) -> list[str]:
    keys = (key for key in one if key.startswith("tasks.") and key.endswith(f".{split}"))
    return [key for key in keys if key in other and one[key] != other[key]]


def tested_otherwise(run: RunFolder, other: RunFolder) -> list[str]:
    """The keys of the data that a run was tested on and the other found different.

    Raises:
        RunError: a recipe or `env.json` cannot be read.
    """
    return _splits_otherwise(run.read(), other.read(), tested_split(run))


def tested_split(run: RunFolder) -> str:
    """`test` or `validation`.

    Raises:
        RunError: the recipe cannot be read.
    """
    evaluation = run.recipe().get("evaluation")
    return str(evaluation.get("split", "test")) if isinstance(evaluation, dict) else "test"


def open_runs(paths: Iterable[Path], *, depth: int = 3) -> tuple[list[RunFolder], list[str]]:
    """The runs at these paths, each once, and a remark on each in a folder that cannot be opened.

    A path is a run's, or that of a folder with runs in it or in its folders. The log that a sweep keeps beside a run
    (`seed1.log` of `seed1`), which `seed*` names too, is passed over.

    Raises:
        RunError: a path is neither, the run that it names cannot be opened, or there is none.
    """
    paths = [*paths]
    folders = [path for path in paths if not (path.name.endswith(".log") and path.is_file())]
    if paths and not folders:
        raise RunError(f"{paths[0]}: is the log of a run, and no run folder")
    found: dict[Path, RunFolder] = {}
    damaged: list[RunError] = []
    for path in folders:
        for run in runs_in(path, depth) or [path]:
            try:
                found.setdefault(run.resolve(), RunFolder.open(run))
            except RunError as error:
                if run == path:
                    raise
                damaged.append(error)
    if damaged and not found:
        raise damaged[0]
    return list(found.values()), [f"left out: {error}" for error in damaged]


def runs_in(path: Path, depth: int = 3) -> list[Path]:
    """The folders of the runs at a path, or in its folders down to that depth; damaged ones too, to be told of."""
    if RunFolder(path).recipe_path.is_file() or (is_run(path) and stage_folders(path)):
        return [path]
    if not depth or not path.is_dir():
        return []
    return [run for below in sorted(path.iterdir()) for run in runs_in(below, depth - 1)]


def seed_groups(runs: Iterable[RunFolder]) -> tuple[list[list[RunFolder]], list[list[RunFolder]]]:
    """Groups of two or more runs whose recipes are equal but for the seed, and those of them in which a seed is twice.

    The same seed twice is no second draw, and a mean over it would look surer than it is.

    Raises:
        RunError: a recipe cannot be read.
    """
    groups: dict[str, list[tuple[Any, RunFolder]]] = {}
    for run in runs:
        recipe = run.recipe()
        seed = recipe.pop("seed", None)
        groups.setdefault(as_text(recipe), []).append((seed, run))
    several: tuple[list[list[RunFolder]], list[list[RunFolder]]] = ([], [])
    for group in groups.values():
        if len(group) > 1:
            twice = len({str(seed) for seed, _ in group}) < len(group)
            several[twice].append([run for _, run in group])
    return several


def as_text(recipe: Any) -> str:
    """The same text for recipes without a difference."""

    def said(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: said(one) for key, one in value.items() if not _is_off(one)}
        return [*map(said, value)] if isinstance(value, list) else value

    return json.dumps(said(recipe), sort_keys=True, default=str)


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _differences(key: str, old: Any, new: Any) -> Iterable[tuple[str, Any, Any]]:
    """Each key with its two values, None where there is none."""
    whole = key, old, new
    if type(old) is not type(new):
        yield whole
        return
    is_list = isinstance(old, list)
    old, new = _by_name(old), _by_name(new)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield whole
        return
    for name in [*old, *(name for name in new if name not in old)]:
        below = f"{key}.{name}" if key else str(name)
        if name in old and name in new:
            yield from _differences(below, old[name], new[name])
        elif not (_is_off(old.get(name)) and _is_off(new.get(name))):
            yield below, old.get(name), new.get(name)
    if is_list and old.keys() == new.keys() and list(old) != list(new):
        yield whole  # the same strategies or tasks, in another order


def _by_name(value: Any) -> Any:
    """A list of mappings as a mapping by their names, where each has its own."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) and "name" in item for item in value):
        return value
    named = {item["name"]: item for item in value}
    return named if len(named) == len(value) else value
