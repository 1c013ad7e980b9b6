"""What a run read: hashes of every task's examples and of the model's files, kept in `env.json`.

Whoever goes on with a run, or tests it, compares, so that other data or another model are told before anything is
trained or computed. Only what is used is hashed: a row that a limit leaves out may change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from clkit.engine.further import FurtherTasks, further_tasks
from clkit.errors import ClkitError, UsageError
from clkit.general.section import BUILTIN
from clkit.models.chain import chain_of
from clkit.models.embedded import embedded_model_folder
from clkit.models.folders import PACKAGE, package_folder
from clkit.models.sections import ModelSection
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.run.seal import Checked
from clkit.tasks.loading import load_task
from clkit.tasks.sections import TaskRecipe
from clkit.tasks.stored import in_batches
from clkit.tasks.task import Task

#: Fingerprints by the key of what was read: `model.config.json`, `tasks.NAME.train`, `tasks.NAME.labels`.
Read = Mapping[str, Any]

EMBEDDED = "embedded:"
#: The files of a model's folder that decide what it and its tokenizer compute.
_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.gguf", "*.py", "config.json", "*.model", "vocab.*", "merges.txt"),
    *("tokenizer*.json", "added_tokens.json", "special_tokens_map.json", "chat_template*"),
)
#: Bytes of a file up to which all of it is hashed; of a larger one so many blocks, the first and the last among them.
_WHOLE, _BLOCK, _BLOCKS = 4 << 30, 1 << 20, 512
_COLUMNS = ("text", "answer", "turns")


def what_is_read(recipe: Recipe, tasks: Sequence[Task], further: FurtherTasks, before: Read) -> dict[str, Any]:
    """The fingerprints of all that a run of the recipe reads.

    Args:
        tasks, further: of the recipe, as loaded.
        before: those of the run that is gone on with; training data that are gone since then count as they were.
    """
    found = model_read(recipe.model)
    for task in tasks:
        gone = () if task.train else (f"tasks.{task.name}.train", f"tasks.{task.name}.validation")
        found |= {**{key: before[key] for key in gone if key in before}, **task_read(task)}
    for task in further.values():
        found |= task_read(task, "strategies")
    texts = recipe.general.texts if recipe.general else None
    if texts not in (None, BUILTIN):
        found["general.texts"] = _of_file(Path(str(texts)))
    return found


def task_read(task: Task, section: str = "tasks") -> dict[str, Any]:
    """The fingerprints of a task's splits, and its labels.

    Args:
        section: of the recipe that names it.
    """
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    found: dict[str, Any] = {}
    for split, dataset in splits.items():
        if dataset:  # of further data nothing is tested
            digest = _hash()
            for batch in in_batches(dataset, *(name for name in _COLUMNS if name in dataset.column_names)):
                digest.update(json.dumps(batch, sort_keys=True).encode())
            found[f"{section}.{task.name}.{split}"] = f"{len(dataset)} examples, {digest.hexdigest()}"
    if task.labels is not None:
        found[f"{section}.{task.name}.labels"] = list(task.labels)
    return found


def model_read(section: ModelSection) -> dict[str, Any]:
    """The fingerprints of a starting model's files; of one of the hub its commit, as far as it is on this machine."""
    chain = chain_of(section)
    section, name = chain.section, chain.section.name
    merged = {
        f"model.adapter-{number}.{file.name}": _of_file(file)
        for number, folder in enumerate(chain.adapters, start=1)
        for file in sorted(folder.glob("adapter_*"))
    }
    if name.startswith(EMBEDDED):
        folder = embedded_model_folder(name.removeprefix(EMBEDDED))
    elif name.startswith(PACKAGE):
        folder = package_folder(name.removeprefix(PACKAGE))
    elif Path(name).is_absolute():
        folder = Path(name)
    else:
        return _of_hub(section) | merged
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return {f"model.{file.name}": _of_file(file) for file in sorted(files)} | merged


def _of_hub(section: ModelSection) -> dict[str, Any]:
    try:
        found = try_to_load_from_cache(section.name, section.gguf_file or "config.json", revision=section.revision)
    except HFValidationError:
        return {}
    return {"model.commit": Path(found).parent.name} if isinstance(found, str) else {}


def _hash() -> Any:
    return blake2b(digest_size=8)


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest = file_digest(file, _hash)
        else:
            digest = _hash()
            for index in range(_BLOCKS):
                file.seek(index * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return f"{size} bytes, {digest.hexdigest()}"


def changes(before: Read, now: Read, recipe: Recipe, only: str = "") -> Iterator[tuple[str, str]]:
    """The key of everything that was read and is no longer the same, and in words where it lies and what it is now.

    Args:
        only: where the keys begin that are of interest; of a model that is not on this machine nothing is said.
    """
    silent = "" if any(key.startswith("model.") for key in now) else "model."
    for key in dict.fromkeys((*before, *now)):
        if key.startswith(only) and before.get(key) != now.get(key) and not (silent and key.startswith(silent)):
            was, now_is = (_shown(read.get(key)) for read in (before, now))
            yield key, f"{_place(recipe, key)}: {now_is}, was {was}"


def _shown(value: Any) -> str:
    return "missing" if value is None else ", ".join(value) if isinstance(value, list) else str(value)


def _place(recipe: Recipe, key: str) -> str:
    """Where that is read from, as far as the recipe says."""
    section, _, rest = key.partition(".")
    if section == "model":
        return recipe.model.name
    name, _, split = rest.rpartition(".")
    known = {"tasks": recipe.task_recipes(), "strategies": recipe.further_data()}
    for task in known.get(section, []):
        if task.name == name:
            return task.source.place(split)
    return str(recipe.general.texts) if recipe.general else ""


def refuse_changes(run: RunFolder, recipe: Recipe, now: Read, *, accept: bool, only: str = "") -> list[str]:
    """What is no longer as the run read it, in words.

    Args:
        accept: whether to go on all the same.

    Raises:
        UsageError: something is not, and was not accepted.
    """
    before = run.read()
    known = {key.rpartition(".")[0] for key in before}  # what is read for the first time is a new task's
    now = {key: value for key, value in now.items() if key.rpartition(".")[0] in known}
    found = [f"{key} ({where})" for key, where in changes(before, now, recipe, only)]
    if found and not accept:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise UsageError(
            f"{run.path}: not what the run read: {'; '.join(found[:3])}{more}. {_way_back(before, found)}, or go on "
            "all the same with --accept-changes"
        )
    return found


def _way_back(before: Read, found: Sequence[str]) -> str:
    if all(key.startswith("model.commit ") for key in found):
        return f"Name that commit ('model.revision=\"{before['model.commit']}\"')"
    return "Put it back"


def examine_read(run: RunFolder) -> Iterator[Checked]:
    """Compare what a run read with what its recipe names now. What can no longer be read does the run no harm."""
    try:
        recipe, before = Recipe.load(run.recipe_path), run.read()
    except ClkitError:  # the doctor says so himself
        return

    def read_task(task: TaskRecipe) -> Read:
        plain_text = recipe.objective.kind == "pretraining"
        return task_read(load_task(task, recipe.data, recipe.seed, plain_text=plain_text))

    parts: dict[str, Callable[[], Read]] = {"model.": partial(model_read, recipe.model)}
    parts |= {f"tasks.{task.name}.": partial(read_task, task) for task in recipe.task_recipes()}
    if recipe.further_data():
        parts["strategies."] = lambda: {
            key: value
            for task in further_tasks(recipe).values()
            for key, value in task_read(task, "strategies").items()
        }
    for only, read in parts.items():
        name = only.rstrip(".")
        known = {key: value for key, value in before.items() if key.startswith(only)}
        try:
            different = list(changes(known, read(), recipe, only)) if known else []
        except (ClkitError, OSError) as error:
            yield Checked(name, "unknown", f"cannot be read any more: {error}")
            continue
        yield from (Checked(key, "changed", where) for key, where in different)
        if known and not different:
            yield Checked(name, "whole", "as the run read it")
