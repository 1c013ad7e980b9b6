"""`clkit schema`: which keys a recipe has."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of all keys instead.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, which lets an editor complete and check its keys.

    Example: clkit schema > recipe.schema.json
    """
    from clkit.recipe.reference import field_reference, recipe_schema

    text = field_reference() if markdown else json.dumps(recipe_schema(), indent=2, ensure_ascii=False)
    typer.echo(text.removesuffix("\n"))
