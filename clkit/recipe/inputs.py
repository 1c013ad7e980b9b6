"""What a recipe reads from this machine, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from clkit.errors import ModelError
from clkit.general.lm_eval_tasks import lm_eval_problems
from clkit.general.section import BUILTIN, GeneralSection
from clkit.models.embedded import embedded_model_folder
from clkit.models.folders import PACKAGE, chosen_gguf, package_folder, require_gguf
from clkit.models.sections import ModelSection
from clkit.recipe.recipe import Recipe


def paths_read(value: object) -> list[Path]:
    """Every local file and folder that a recipe names, the starting model and the data among them."""
    if isinstance(value, Recipe):
        return paths_read(value.model_dump())
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return [path for entry in entries for path in paths_read(entry)]
    return [Path(value)] if isinstance(value, str) and value.startswith("/") and Path(value).exists() else []


def missing_inputs(recipe: Recipe) -> list[str]:
    """One line for each local model, folder, file or task of lm-eval that the recipe names and that is not there."""
    missing = _missing_model(recipe.model)
    if recipe.general is not None:
        missing += _missing_general(recipe.general)
    folder = recipe.benchmark.folder if recipe.benchmark else None
    if folder is not None and not Path(folder).is_dir():
        return [*missing, f"benchmark.folder: no folder '{folder}'"]
    for task in recipe.task_recipes():
        lacks = task.source.missing(task.wanted(plain_text=recipe.objective.kind == "pretraining"))
        missing += [f"tasks.{task.name}.source.{line}" for line in lacks]
    return missing


def _missing_model(section: ModelSection) -> list[str]:
    name = section.name
    try:
        if name.startswith("embedded:"):
            embedded_model_folder(name.removeprefix("embedded:"))
            return []
        folder = package_folder(name.removeprefix(PACKAGE)) if name.startswith(PACKAGE) else Path(name)
    except ModelError as error:
        return [f"model.name: {error}"]
    if _is_local(name) and not folder.is_dir():
        return [f"model.name: no folder '{name}'"]
    try:
        if folder.is_absolute():
            chosen_gguf(folder, section.gguf_file)
        elif section.gguf_file is not None:
            require_gguf()
    except ModelError as error:
        return [str(error)]
    return []


def _missing_general(general: GeneralSection) -> list[str]:
    missing = []
    if general.texts not in (None, BUILTIN) and not Path(str(general.texts)).is_file():
        missing.append(f"general.texts: no file '{general.texts}'")
    if general.lm_eval is not None:
        missing += lm_eval_problems(general.lm_eval)
    return missing


def _is_local(name: str) -> bool:
    return Path(name).is_absolute()
