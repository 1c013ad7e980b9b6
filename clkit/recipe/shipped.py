"""What comes with clkit: the recipes, by name, to be copied and made one's own; and what else a recipe can name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import clkit.recipe
from clkit.errors import UsageError
from clkit.models.embedded import EMBEDDED_MODELS
from clkit.run.layout import check_target
from clkit.strategies.options import StrategyOptions
from clkit.strategies.registry import load_strategy, strategy_names
from clkit.tasks.benchmarks import benchmarks
from clkit.wording import did_you_mean

SCHEMA_FILE = "recipe.schema.json"


@cache
def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside an installed clkit, or beside the package in a checkout of its source."""
    package = Path(clkit.recipe.__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def suites_folder() -> Path:
    """Where the shipped suites lie, which `clkit sweep` runs: lists of runs of recipes."""
    return recipes_folder() / "suites"


def shipped_recipes() -> dict[str, Path]:
    """Each shipped recipe's file by its name, in alphabetical order."""
    return _by_name(recipes_folder())


def shipped_suites() -> dict[str, Path]:
    """Each shipped suite's file by its name, in alphabetical order; none has the name of a recipe."""
    return _by_name(suites_folder())


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_recipe(name: str) -> Path | None:
    """The file of the shipped recipe or suite of that name, with or without `.yaml`, or None."""
    return {**shipped_recipes(), **shipped_suites()}.get(name.removesuffix(".yaml"))


def recipe_path(source: str | Path, folder: Path | None = None, *, kind: str = "recipe") -> Path:
    """The file of a recipe or suite: a path where a file of that name exists, otherwise a shipped one.

    Args:
        folder: where a relative path starts from; the current folder unless given.
        kind: what is looked for, a `recipe` or a `suite`, for messages.

    Raises:
        UsageError: there is neither.
    """
    try:
        path = (folder or Path()) / Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long a name, or an unknown ~user
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"no {kind} {str(source)[:60]!r} ({reason})") from None
    if path.exists() and not path.is_dir():  # not is_file(): `clkit validate <(make-recipe)` hands over a pipe
        return path
    if shipped := shipped_recipe(str(source)):
        return shipped
    if path.is_dir():
        raise UsageError(f"'{source}' is a folder; name a {kind} file in it")
    if len(Path(source).parts) > 1:
        raise UsageError(f"no {kind} file '{source}'; correct the path, or name a shipped {kind} (`clkit ls {kind}s`)")
    hint = did_you_mean(str(source).removesuffix(".yaml"), [*shipped_recipes(), *shipped_suites()])
    raise UsageError(f"no {kind} '{source}'{hint} (give a file's path, or a shipped {kind}: `clkit ls {kind}s`)")


def description(path: Path) -> str:
    """What a recipe is, in one line: the first comment of its file that speaks to people and not to an editor."""
    for line in path.read_text(encoding="utf-8").splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#"):
            return ""
        if comment and not comment.startswith("yaml-language-server:"):
            return comment
    return ""


def copy_recipe(name: str, target: Path, *, overwrite: bool = False) -> list[Path]:
    """Copy a recipe, and the schema beside it where there is none; returns what was written.

    Raises:
        UsageError: there is no such recipe, the target exists and may not be overwritten, or cannot be written.
    """
    source = recipe_path(name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and target.samefile(source):
        raise UsageError(f"'{target}' is the recipe itself")
    check_target(target, "", replace=overwrite)
    written = [target]
    try:
        shutil.copyfile(source, target)
        schema = target.parent / SCHEMA_FILE
        if source.parent != suites_folder() and not os.path.lexists(schema):
            shutil.copyfile(recipes_folder() / SCHEMA_FILE, schema)
            written.append(schema)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror or error}") from None
    return written


#: Names with descriptions of each kind: what a recipe's file says it is; what a strategy's options say, or why a plugin
#: cannot be imported; benchmarks with the numbers of their orders; models as a recipe names them.
KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "recipes": lambda: {name: description(path) for name, path in shipped_recipes().items()},
    "suites": lambda: {name: description(path) for name, path in shipped_suites().items()},
    "strategies": lambda: {name: _about_strategy(name) for name in sorted(strategy_names())},
    "benchmarks": lambda: {
        name: f"{benchmark.description} Orders: {', '.join(map(str, benchmark.orders))}."
        for name, benchmark in benchmarks().items()
    },
    "models": lambda: {f"embedded:{name}": about for name, about in EMBEDDED_MODELS.items()},
}


def _about_strategy(name: str) -> str:
    try:
        strategy = load_strategy(name)
    except UsageError as error:
        return str(error)
    about = strategy.__doc__ if strategy.Options is StrategyOptions else strategy.Options.__doc__
    return (about or "").strip().partition("\n")[0]
