"""Writes the generated files of the recipes' folder: `python -m tools.make_reference`."""

from __future__ import annotations

import json
from pathlib import Path

from clkit.recipe.reference import field_reference, recipe_schema
from clkit.recipe.shipped import (
    SCHEMA_FILE,
    description,
    recipes_folder,
    shipped_recipes,
    shipped_suites,
    suites_folder,
)
from clkit.suites.section import Suite

_INTRO = """\
# Recipes

A recipe says everything that decides a run's result: the model, the tasks, the tuning, the strategies, the training.
`clkit ls recipes` lists the shipped ones, `clkit show NAME --resolved` prints one with every default spelt out,
`clkit validate RECIPE` lists all that is wrong with one, and `clkit cp NAME FILE` makes one your own.

- **Names.** `clkit train t5_order1` takes the shipped recipe; a file of that name in the current folder comes first.
- **Overrides.** `clkit train t5_order1 training.learning_rate=3e-4 strategies.migu.threshold=0.5`. The value is YAML.
  Strategies and tasks are addressed by their name; `strategies=[]` replaces the list, `key=null` unsets a key.
- **Extending.** `extends: t5_order1`, or a path from the recipe's own folder, takes over another recipe. Sections merge
  key by key; lists and single values are replaced. `tasks` replaces an inherited `benchmark` and the other way round,
  and another `tuning.method` replaces the inherited `tuning`.
- **Paths.** A relative path starts from the folder of the file that it is written in; in an override or a shipped
  recipe, from the current folder.
- **Words.** Only `true` and `false` are truth values: the labels `[yes, no]` need no quotes. `1e-4` is a number.
- **Editors.** The first line of each file leads to `recipe.schema.json`, which completes and checks keys as you type.
"""

_SUITES = """\
# Suites

A suite lists runs of a recipe, and `clkit sweep` carries them out: each method with each seed, in each order of the
tasks. `clkit ls suites` lists the shipped ones, `clkit show NAME` prints one, `clkit validate SUITE` lists all that is
wrong with one or with the recipe of a run, and `docs/guide.md` says more.

- **Changes.** `set` holds overrides as `clkit train` takes them, with dots (`training.epochs: 2`) or without
  (`training: {epochs: 2}`); those of a method come after those of all runs. A command changes a suite in the same way:
  `clkit sweep SUITE seeds=[1,2] set.training.epochs=2`.
- **Paths.** A relative path starts from the folder of the suite's file; in an override or a shipped suite, from the
  current folder. Data in the CL_Benchmark layout: `set.benchmark.folder=./CL_Benchmark`.
"""


def readme() -> str:
    """The README of the recipes' folder."""
    recipes = [f"| `{name}` | {description(path)} |" for name, path in shipped_recipes().items()]
    table = "\n".join(["| recipe | what it is |", "|---|---|", *recipes])
    return f"{_INTRO}\n## Shipped recipes\n\n{table}\n\n# All keys\n\n{field_reference()}"


def suites_readme() -> str:
    """The README of the suites' folder."""
    suites = [f"| `{name}` | {description(path)} |" for name, path in shipped_suites().items()]
    table = "\n".join(["| suite | what it is |", "|---|---|", *suites])
    return f"{_SUITES}\n## Shipped suites\n\n{table}\n\n# All keys\n\n{field_reference(Suite)}"


def generated_files() -> dict[Path, str]:
    """The files of the recipes' folder that are written from the models, with what must stand in them."""
    schema = json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
    texts = {recipes_folder(): readme(), suites_folder(): suites_readme()}
    return {recipes_folder() / SCHEMA_FILE: schema, **{folder / "README.md": text for folder, text in texts.items()}}


if __name__ == "__main__":
    for path, text in generated_files().items():
        path.write_text(text, encoding="utf-8")
