"""What a recipe reads from this machine: its tasks, and what can be checked before anything is loaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from clkit.errors import ClkitError, DataError, ModelError
from clkit.general.lm_eval import lm_eval_problems
from clkit.general.section import BUILTIN, GeneralSection
from clkit.models.chain import chain_of
from clkit.models.chat import NO_CHAT_TEMPLATE
from clkit.models.folders import (
    Origin,
    check_folder,
    check_tokenizer,
    evident,
    has_chat_template,
    has_plain_blocks,
    lacks_weights,
)
from clkit.models.held import check_held
from clkit.recipe.recipe import Recipe
from clkit.strategies.registry import load_strategy
from clkit.tasks.loading import choose_rows, further_rows, load_finished, load_task
from clkit.tasks.records import text_lines
from clkit.tasks.sections import TaskRecipe
from clkit.tasks.source import Wanted
from clkit.tasks.task import Task
from clkit.training.sections import PACKAGE_OF, TrackerName, missing_for_speed

#: Bytes of data whose every row is looked at before anything is loaded: 100,000 rows of 100 characters, read in 0.7 s.
#: Of what goes beyond them only the beginnings of the files are.
QUICK = 40_000_000


def paths_read(value: object) -> list[Path]:
    """Every local file and folder that a recipe names, the starting model and the data among them."""
    if isinstance(value, Recipe):
        return paths_read(value.model_dump())
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return [path for entry in entries for path in paths_read(entry)]
    return [Path(value)] if isinstance(value, str) and value.startswith("/") and Path(value).exists() else []


def missing_inputs(recipe: Recipe) -> list[str]:
    """One line for each local model, file, package or task of lm-eval that the recipe names and that is of no use."""
    return [*model_problems(recipe), *other_problems(recipe)]


def other_problems(recipe: Recipe) -> list[str]:
    """What `missing_inputs` says of all but the model."""
    missing: list[str] = []
    package = PACKAGE_OF.get(recipe.training.optimizer)
    if package is not None and find_spec(package) is None:
        missing.append(
            f"training.optimizer: {recipe.training.optimizer} needs {package}, which is not installed: "
            f"`pip install {package}`"
        )
    missing += [*missing_trackers(recipe.training.report_to), *missing_for_speed(recipe.training)]
    if recipe.general is not None:
        missing += _missing_general(recipe.general)
    folder = recipe.benchmark.folder if recipe.benchmark else None
    if folder is not None and not Path(folder).is_dir():
        missing.append(f"benchmark.folder: no folder '{folder}'")
    room = QUICK
    for reading in _readings(recipe, tasks=folder is None or Path(folder).is_dir()):
        lacks = reading.task.source.lacks(reading.wanted)
        missing += [f"{reading.at}.source.{line}" for line in lacks]
        size = None if lacks else reading.task.source.size()
        if size is not None and size <= room:
            room -= size
            missing += [f"{reading.prefix}{line}" for line in _row_problems(reading.read)]
    return missing


class _Reading(NamedTuple):
    """What is read of a source: for whom, where the recipe says so, how, and what stands before an error."""

    at: str
    task: TaskRecipe
    wanted: Wanted
    read: Callable[[], object]
    prefix: str = ""


def _readings(recipe: Recipe, *, tasks: bool) -> Iterator[_Reading]:
    pretraining = recipe.objective.kind == "pretraining"
    for task in recipe.task_recipes() if tasks else ():
        read = partial(choose_rows, task, recipe.data, recipe.seed, plain_text=pretraining)
        yield _Reading(f"tasks.{task.name}", task, task.wanted(plain_text=pretraining), read)
    for options in recipe.strategies:
        for key, data in options.further_data().items():
            at, task = f"strategies.{options.name}.{key}", data.as_task(options.name, key)
            alone = recipe.is_plain_text(data.source)
            wanted = task.wanted(plain_text=alone, tested=False)
            yield _Reading(at, task, wanted, partial(further_rows, task, plain_text=alone), f"{at}: ")


def missing_trackers(named: Sequence[TrackerName]) -> list[str]:
    """One line for each experiment tracker that is not installed."""
    return [
        f"training.report_to: {name} is not installed: `pip install 'clkit[{name}]'`"
        for name in named
        if find_spec(name) is None
    ]


def _row_problems(read: Callable[[], object]) -> Iterator[str]:
    """What is wrong with rows taken together, as reading them tells."""
    try:
        read()
    except DataError as error:
        yield str(error)


def model_problems(recipe: Recipe) -> Iterator[str]:
    """What the files of a local model tell before its weights are loaded."""
    try:
        chain = chain_of(recipe.model)
        section, tokenizer = chain.section, chain.tokenizer_folder
        origin = Origin.of(section)
        gguf, folder = origin.gguf_file(section.gguf_file), origin.folder
        check_held(chain, gguf)
        if folder is None or gguf is not None:
            return
        check_folder(origin, folder)
        problems = []
        if lacking := lacks_weights(origin, folder):
            problems.append(lacking)
        try:
            check_tokenizer(tokenizer or folder)
        except ModelError as error:
            problems.append(f"{origin.subject}: {error}")
        if recipe.prompt.chat_template and not has_chat_template(tokenizer or folder):
            problems.append(NO_CHAT_TEMPLATE)
        yield from problems
        if problems or section.trust_remote_code or [*missing_for_speed(recipe.training)]:  # no code is run for a check
            return
        if chain.adapters or _must_be_asked(recipe, folder):
            from clkit.recipe.fitting import check_model  # which loads libraries for seconds

            check_model(recipe)
    except ClkitError as error:
        yield str(error)


def _must_be_asked(recipe: Recipe, folder: Path) -> bool:
    """Whether more than a glance at a model's config.json is needed to see that it can do what the recipe says."""
    training, tuning, kind = recipe.training, recipe.tuning, recipe.objective.kind
    if training.packing or training.liger or training.neftune_alpha is not None or recipe.prompt.chat_template:
        return True
    named = tuning.freeze if tuning.method == "full" else [*(tuning.targets or ()), *tuning.modules_to_save]
    plain = has_plain_blocks(folder)
    if named or recipe.model.attention is not None or (tuning.method != "full" and not plain):
        return True
    checked = [one for one in recipe.strategies if load_strategy(one.name).checks_model()]
    unusual = any(one.asks_model or not plain for one in checked)
    return unusual or kind == "pretraining" or not evident(folder, kind)


def _missing_general(general: GeneralSection) -> list[str]:
    missing = []
    texts = None if general.texts in (None, BUILTIN) else Path(str(general.texts))
    if texts is not None and not texts.is_file():
        missing.append(f"general.texts: no file '{texts}'")
    elif texts is not None and texts.stat().st_size <= QUICK:
        missing += [f"general.texts: {line}" for line in _row_problems(lambda: deque(text_lines(texts), maxlen=0))]
    if general.lm_eval is not None:
        missing += lm_eval_problems(general.lm_eval)
    return missing


def load_tasks(
    recipe: Recipe,
    finished: Mapping[str, Sequence[str] | None] = MappingProxyType({}),
    chosen: Sequence[TaskRecipe] | None = None,
) -> list[Task]:
    """The tasks of a recipe in the order of learning.

    Args:
        finished: the labels of the tasks that nobody learns again, by name; their training data may be gone where none
            of them is tested on.
        chosen: tasks of the recipe; all where None.

    Raises:
        DataError: a task's data cannot be read or does not fit its labels.
    """
    plain_text, data, seed = recipe.objective.kind == "pretraining", recipe.data, recipe.seed
    split = recipe.evaluation.split
    return [
        load_finished(task, finished[task.name], data, seed, tested_on=split, plain_text=plain_text)
        if task.name in finished
        else load_task(task, data, seed, plain_text=plain_text)
        for task in (recipe.task_recipes() if chosen is None else chosen)
    ]
