"""How far the runs of a sweep are, as their folders say: there is no other record of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from clkit.errors import ClkitError, RecipeError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.results.matrix import AccuracyMatrix
from clkit.run.comparison import compare_recipes
from clkit.run.folder import RunFolder
from clkit.run.layout import stage_folders
from clkit.run.lock import Holder
from clkit.run.place import is_empty
from clkit.suites.planning import PlannedRun

State = Literal["finished", "running", "begun", "waiting"]


class RunState(NamedTuple):
    """How far a run is.

    Attributes:
        stages: how many are finished.
        matrix: what it scored so far, where that can be read.
        seconds: that its finished stages took, loading left out.
    """

    state: State
    stages: int = 0
    matrix: AccuracyMatrix | None = None
    seconds: float = 0.0


def state_of(path: Path) -> RunState:
    """How far the run of a folder is."""
    run = RunFolder(path)
    holder = Holder.of(path)
    running = holder is not None and not holder.is_gone()
    if is_empty(path) and not running:
        return RunState("waiting")
    finished = sum(stage.is_finished for stage in stage_folders(path))
    with suppress(ClkitError):
        matrix, damage, _ = run.scores()
        if not matrix.in_progress and not damage:
            return RunState("finished", finished, matrix, _seconds(run))
    return RunState("running" if running else "begun", finished)


def remarks_of(path: Path) -> list[str]:
    """What was remarked on when the run of a folder was last begun or gone on with."""
    begun = [line.get("remarks") for line in RunFolder(path).log.read() if line.get("event") == "planned"]
    told = begun[-1] if begun else None
    return [*map(str, told)] if isinstance(told, list) else []  # the log may be of an earlier version, or damaged


def _seconds(run: RunFolder) -> float:
    """What the stages of a run took."""
    payloads = (stage.payload for stage in run.stages())
    return sum(float(value) for payload in payloads for key, value in payload.items() if key.endswith("_seconds"))


def refuse_others(folder: Path, runs: Iterable[PlannedRun]) -> None:
    """Make sure that what lies in the folders of these runs is of their recipes.

    Raises:
        UsageError: a run is of another recipe, or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--runs {folder}: is not a folder; name another")
    for run in runs:
        begun, wanted = RunFolder(folder / run.place), recipe_yaml(run.recipe)
        if not begun.recipe_path.is_file() or (written := begun.recipe_yaml()) == wanted:
            continue
        with suppress(RecipeError):  # of a clkit that knew fewer keys, or more
            written = recipe_yaml(Recipe.load(begun.recipe_path))
        differing = [key for key in compare_recipes(written, wanted) if Recipe.decides_result(key)]
        if differing:
            raise UsageError(
                f"{begun.path} is the run of another recipe, which differs in {', '.join(differing)}: remove that "
                "folder, or name another for the suite with --runs DIR"
            )
