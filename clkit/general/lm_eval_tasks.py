"""lm-eval's tasks by name. lm-eval itself is imported only where a recipe asks for it, and kept quiet."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clkit.errors import DataError, RecipeError, first_line
from clkit.general.section import LmEvalSection
from clkit.section import did_you_mean

KEY = "general.lm_eval"


@dataclass(frozen=True)
class LmEvalTasks:
    """Loaded tasks of lm-eval, and the groups that they were asked for by; each by its name."""

    tasks: dict[str, Any]
    groups: dict[str, Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's log, progress bars and prints, which would tear the display. Errors are raised all the same.

    Nor is a server told of every set of data that is read, local files included.
    """
    import datasets

    logger = logging.getLogger("lm_eval")
    level, counted = logger.level, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    logger.setLevel(logging.ERROR)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted


def lm_eval_problems(section: LmEvalSection) -> list[str]:
    """One line for each reason why lm-eval cannot find the tasks. No data are loaded; its index takes some seconds."""
    return _missing(section) or _unknown(section, _index(section))


def load_lm_eval_tasks(section: LmEvalSection) -> LmEvalTasks:
    """The tasks with their data, which are downloaded where they are not in the cache.

    Raises:
        RecipeError: lm-eval is not installed, or does not know a task.
        DataError: a task cannot be loaded, or cannot be done with the model in memory.
    """
    problems = _missing(section)
    if not problems:
        manager = _index(section)
        problems = _unknown(section, manager)
    if problems:
        raise RecipeError(*problems)
    loaded = LmEvalTasks({}, {})
    for name in section.tasks:
        try:
            with quiet():
                found = manager.load([name])
        except Exception as error:  # no narrower: hub, disk, YAML and the task's own code share no base class
            raise DataError(
                f"{KEY}.tasks: '{name}' cannot be loaded ({first_line(error).rstrip('.')}); without the hub, describe "
                f"a task over local files in a folder of your own: {KEY}.include_path"
            ) from error
        loaded.tasks.update(found["tasks"])
        loaded.groups.update(found["groups"])
    for name, task in loaded.tasks.items():
        _set_fewshot(name, task, section.num_fewshot)
        for trait, reason in (("UNSAFE_CODE", "runs code that models write"), ("MULTIMODAL", "shows pictures")):
            if getattr(task, trait, False):
                raise DataError(f"{KEY}.tasks: '{name}' {reason}, which clkit does not support; leave it out")
    return loaded


def _set_fewshot(name: str, task: Any, number: int | None) -> None:
    own = task.get_config("num_fewshot")
    if number and own == 0:
        raise DataError(
            f"{KEY}.num_fewshot: the task '{name}' takes no solved examples (its num_fewshot is 0); leave one of the "
            "two out"
        )
    task.set_config("num_fewshot", number if number is not None else own or 0)


def _missing(section: LmEvalSection) -> list[str]:
    if find_spec("lm_eval") is None:
        return [f"{KEY}: lm-eval is not installed; pip install 'clkit[lm-eval]'"]
    if section.include_path is not None and not Path(section.include_path).is_dir():
        return [f"{KEY}.include_path: no folder '{section.include_path}'"]
    return []


def _unknown(section: LmEvalSection, manager: Any) -> list[str]:
    """One line for each task that lm-eval does not know."""
    known = manager.all_tasks
    own = "" if section.include_path is None else f", nor one in a readable YAML file of {section.include_path}"
    return [
        f"{KEY}.tasks: lm-eval has no task '{name}'{own}{did_you_mean(name, known)} (`lm-eval ls tasks` lists them)"
        for name in section.tasks
        if name not in known
    ]


def _index(section: LmEvalSection) -> Any:
    """lm-eval's `TaskManager`: of the folder alone where all tasks lie there, for reading the others takes seconds."""
    with quiet():
        from lm_eval.tasks import TaskManager

        if section.include_path is not None:
            own = TaskManager(include_path=section.include_path, include_defaults=False)
            if set(section.tasks) <= set(own.all_subtasks):
                return own
        return TaskManager(include_path=section.include_path)
