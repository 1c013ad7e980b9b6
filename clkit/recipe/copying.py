"""Copies a shipped recipe together with the schema that its first line points to."""

from __future__ import annotations

import shutil
from pathlib import Path

from clkit.errors import UsageError
from clkit.recipe.loading import recipe_path
from clkit.recipe.shipped import SCHEMA_FILE, recipes_folder


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
    if target.exists() and not overwrite:
        raise UsageError(f"'{target}' exists; --force replaces it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder '{target.parent}'; make it first")
    written = [target]
    try:
        shutil.copyfile(source, target)
        schema = target.parent / SCHEMA_FILE
        if not schema.exists():
            shutil.copyfile(recipes_folder() / SCHEMA_FILE, schema)
            written.append(schema)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror}") from None
    return written
