"""`clkit cp`: copy a shipped recipe, to make it your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cp(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (`clkit ls recipes`).")],
    file: Annotated[Path, typer.Argument(help="File to write; in a folder, the recipe keeps its name.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Copy a shipped recipe to a file of your own, with the schema that lets an editor complete its keys.

    Example: clkit cp t5_order1 my.yaml
    """
    from clkit.recipe.shipped import copy_recipe

    for written in copy_recipe(recipe, file, overwrite=force):
        typer.echo(f"wrote {written}", err=True)
