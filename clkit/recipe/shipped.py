"""The recipes that come with clkit, by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import clkit.recipe

SCHEMA_FILE = "recipe.schema.json"


@cache
def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside an installed clkit, or beside the package in a checkout of its source."""
    package = Path(clkit.recipe.__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Each shipped recipe's file by its name, in alphabetical order."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def shipped_recipe(name: str) -> Path | None:
    """The file of the shipped recipe of that name, with or without `.yaml`, or None."""
    return shipped_recipes().get(name.removesuffix(".yaml"))


def description(path: Path) -> str:
    """What a recipe is, in one line: the first comment of its file that speaks to people and not to an editor."""
    for line in path.read_text(encoding="utf-8").splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#"):
            return ""
        if comment and not comment.startswith("yaml-language-server:"):
            return comment
    return ""
