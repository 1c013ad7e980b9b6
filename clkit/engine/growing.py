"""Growing: further tasks at the end of a finished or half-finished run's recipe, learned with all that it remembers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clkit.errors import RecipeError, RunError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.results.kinds import Protocol
from clkit.run.comparison import differing_keys
from clkit.run.folder import RunFolder
from clkit.run.layout import MEASURED

#: Why a run of these protocols cannot learn further tasks.
CANNOT_GROW: dict[Protocol, str] = {
    "multi_task": "it learns all tasks at once, so none can be added",
    "zero_shot": "it learns nothing, and its one row is measured",
}


class Difference(NamedTuple):
    """How a recipe differs from the one that a run began with.

    Attributes:
        keys: none of which decides the result.
        new: names of the tasks that it has beyond those of the run, at its end.
    """

    keys: list[str]
    new: list[str]


@dataclass(frozen=True)
class Earlier:
    """What a run that is gone on with brings along.

    Attributes:
        loaded: the folders of the stages that the model to be loaded went through.
        finished: the stages that are, by name, with the number of examples that each learned; nobody reads them again.
        new: the tasks that its recipe did not have so far.
        read: the fingerprints of what it read (`env.json`).
    """

    loaded: list[Path] = field(default_factory=list)
    finished: Mapping[str, int] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    read: Mapping[str, Any] = field(default_factory=dict)


def refuse_changed_recipe(run: RunFolder, recipe: Recipe, *, measured: bool = False) -> Difference:
    """How a recipe differs from the run's own: in what decides no result, and in further tasks at the end.

    Args:
        measured: whether the run is to be one of `clkit measure`.

    Raises:
        UsageError: it differs in more, so that the run cannot go on with it, or the run's protocol has no place for
            further tasks.
        RunError: the run's recipe cannot be read, was changed, or this clkit does not know it any more.
    """
    if (MEASURED in run.environment()) is not measured:
        holds, verb = ("a training", "train") if measured else ("what `clkit measure` measured", "measure")
        raise UsageError(f"{run.path} holds {holds}; go on with `clkit {verb} --resume`, or take another --run DIR")
    if not run.recipe_is_original():
        raise RunError(
            f"{run.recipe_path} was changed after the run began, so it does not say what was trained: put the old one "
            "back, or train into another folder with --run DIR"
        )
    try:
        began_with = Recipe.load(run.recipe_path)
    except RecipeError as error:
        made_by = run.environment().get("versions", {}).get("clkit", "another version")
        raise RunError(
            f"{error}; the run was made by clkit {made_by}: go on with that version, or train anew with --overwrite"
        ) from error
    known, named = ([task.name for task in one.task_recipes()] for one in (began_with, recipe))
    new = named[len(known) :] if named[: len(known)] == known else []
    spelt_out = bool(new) or began_with.task_recipes() == recipe.task_recipes()
    keys = differing_keys(*(_without(one, new, spelt_out) for one in (began_with, recipe)))
    commit = run.read().get("model.commit")
    pinned = {"model.revision"} if commit and recipe.model.revision == commit else set()  # where the branch stood
    decisive = [key for key in keys if Recipe.decides_result(key) and key not in pinned]
    if decisive:
        raise UsageError(
            f"{run.path}: --resume needs the recipe of the run, but these keys differ: {', '.join(decisive)}; take the "
            "changes back (only tasks may be added, at the end), or train into another folder with --run DIR"
        )
    if new and recipe.protocol in CANNOT_GROW:
        raise UsageError(
            f"{run.path}: task '{new[0]}' is new, and the run's protocol is {recipe.protocol}: "
            f"{CANNOT_GROW[recipe.protocol]}; train anew into another folder with --run DIR"
        )
    return Difference(keys, new)


def _without(recipe: Recipe, new: Collection[str], spelt_out: bool) -> Any:
    """A recipe as plain data without these tasks and what it says of each of them (`per_task`).

    Args:
        spelt_out: with a benchmark's tasks one by one, however they are named.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            of_tasks = value.get("per_task") or {}
            kept = {name: own for name, own in of_tasks.items() if name not in new}
            return {key: kept if below is of_tasks else cut(below) for key, below in value.items()}
        return [*map(cut, value)] if isinstance(value, list) else value

    data = recipe.model_dump(mode="json")
    if spelt_out:
        tasks = [task.model_dump(mode="json") for task in recipe.task_recipes() if task.name not in new]
        data |= {"benchmark": None, "tasks": tasks}
    return cut(data)
