"""A recipe written out in full, as YAML that loads back equal."""

from __future__ import annotations

import yaml

from clkit.recipe.dialect import RecipeDumper
from clkit.recipe.recipe import Recipe


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe with every key, in the order of the schema; paths are absolute."""
    return yaml.dump(recipe.model_dump(), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=120)
