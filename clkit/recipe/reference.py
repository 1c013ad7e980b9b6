"""The reference of all keys of a recipe, written from their schema, and the README of the shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path

from clkit.recipe.allowed import allowed
from clkit.recipe.schema import JsonSchema, alternatives, model_schema, recipe_schema, resolved
from clkit.recipe.shipped import SCHEMA_FILE, description, recipes_folder, shipped_recipes

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


def field_reference() -> str:
    """All keys of a recipe as Markdown: one table per section with what is allowed, the default and the meaning."""
    properties = model_schema()["properties"]
    tables = [_table("Top level", model_schema())]
    for key, section in properties.items():
        if key == "strategies":
            options = [_table(f"`strategies`: `{_tag(option)}`", option) for option in alternatives(section["items"])]
            tables += options
        elif key == "tasks":
            tables += _task_tables(section)
        else:
            sections = [option for option in alternatives(section) if "properties" in option]
            for option in sections:
                tag = f": `{_tag(option)}`" if len(sections) > 1 else ""
                tables.append(_table(f"`{key}`{tag}", option))
        if key == "general":
            lm_eval = alternatives(section)[0]["properties"]["lm_eval"]
            tables.append(_table("`general.lm_eval`", alternatives(lm_eval)[0]))
        if key == "training":
            per_task = alternatives(section)[0]["properties"]["per_task"]["additionalProperties"]
            tables.append(_table("`training.per_task`: each task", alternatives(per_task)[0]))
    return "\n".join(tables)


def _task_tables(section: JsonSchema) -> list[str]:
    (task,) = alternatives(alternatives(section)[0]["items"])
    sources = alternatives(task["properties"]["source"])
    return [
        _table("`tasks`: each task", task),
        *(_table(f"`source` of a task: `{_tag(source)}`", source) for source in sources),
    ]


def _tag(section: JsonSchema) -> str:
    constants = (value["const"] for value in section["properties"].values() if "const" in value)
    return str(next(constants))


def _table(title: str, section: JsonSchema) -> str:
    head = ["| key | allowed | default | meaning |", "|---|---|---|---|"]
    lines = [f"## {title}", "", section["description"], "", *head]
    for key, schema in section["properties"].items():
        cells = (f"`{key}`", _allowed(schema), _default(key, schema, section), schema["description"])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _allowed(schema: JsonSchema) -> str:
    if any("properties" in option for option in alternatives(schema)):
        return "a section, see below"
    items = resolved(schema).get("items")
    if items is not None and "properties" in alternatives(items)[0]:
        return "a list of sections, see below"
    return allowed(schema)


def _default(key: str, schema: JsonSchema, section: JsonSchema) -> str:
    if key in section.get("required", []):
        return "required"
    default = schema.get("default")
    if isinstance(default, dict) and default:
        return "its own defaults"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def readme() -> str:
    """The README of the recipes' folder."""
    recipes = [f"| `{name}` | {description(path)} |" for name, path in shipped_recipes().items()]
    table = "\n".join(["| recipe | what it is |", "|---|---|", *recipes])
    return f"{_INTRO}\n## Shipped recipes\n\n{table}\n\n# All keys\n\n{field_reference()}"


def generated_files() -> dict[Path, str]:
    """The files of the recipes' folder that are written from the models, with what must stand in them."""
    schema = json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
    return {recipes_folder() / SCHEMA_FILE: schema, recipes_folder() / "README.md": readme()}


if __name__ == "__main__":  # python -m clkit.recipe.reference
    for path, text in generated_files().items():
        path.write_text(text, encoding="utf-8")
