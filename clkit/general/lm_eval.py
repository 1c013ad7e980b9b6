"""lm-eval's tasks by name, and its tests of the model in memory, which is given back as it was.

lm-eval itself is imported only where a recipe asks for it, and kept quiet.
"""

from __future__ import annotations

import copy
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkit.errors import ClkitError, DataError, RecipeError, first_line
from clkit.events import Listener
from clkit.general.section import LmEvalSection
from clkit.wording import did_you_mean

if TYPE_CHECKING:
    from clkit.models.family import Family

KEY = "general.lm_eval"
#: Seed of the draw of solved examples, lm-eval's own; the same at each measurement, so that all see the same.
FEWSHOT_SEED = 1234


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


def lm_eval_scores(
    family: Family,
    tests: LmEvalTasks,
    section: LmEvalSection,
    listener: Listener,
    between_batches: Callable[[], None],
) -> dict[str, float | None]:
    """Every metric of every task as `task/metric`, as lm-eval gives it (accuracies are fractions).

    Of a group whose score lm-eval puts together, only that; of any other group and of a tag, each task. Where a task
    has several filters, `task/metric,filter`.

    Calls lm-eval's `evaluate`, not `simple_evaluate`, which would ask the hub for the model and seed everything anew.

    Raises:
        ClkitError: lm-eval could not finish.
    """
    with quiet():
        import lm_eval

        for task in tests.tasks.values():
            task.set_fewshot_seed(FEWSHOT_SEED)
        try:
            results = lm_eval.evaluate(
                lm=_language_model(family, section.batch_size, listener, between_batches),
                task_dict={"tasks": tests.tasks, "groups": tests.groups},
                limit=section.limit,
                bootstrap_iters=0,
                log_samples=False,
            )
        except ClkitError:
            raise
        except Exception as error:  # no narrower: metrics and the tasks' own code share no base class
            raise ClkitError(f"{KEY}: lm-eval could not finish its tests ({first_line(error)})") from error
    return dict(_scores(results, tests.groups))


def _language_model(family: Family, batch_size: int, listener: Listener, between_batches: Callable[[], None]) -> Any:
    """The model as lm-eval asks it. Each process has its own and asks it everything."""
    from lm_eval.models.huggingface import HFLM

    class InMemory(HFLM):
        def loglikelihood(self, requests: Any, **options: Any) -> Any:
            listener.evaluating("lm-eval", len(requests))
            return super().loglikelihood(requests, **options)

        def loglikelihood_rolling(self, requests: Any, **options: Any) -> Any:
            listener.evaluating("lm-eval", len(requests))
            return super().loglikelihood_rolling(requests, **options)

        def generate_until(self, requests: Any, **options: Any) -> Any:
            listener.evaluating("lm-eval", len(requests))
            return super().generate_until(requests, **options)

        def _model_call(self, inps: Any, **rest: Any) -> Any:
            between_batches()
            logits = super()._model_call(inps, **rest)
            listener.answered(len(inps))
            return logits

        def _model_generate(self, context: Any, **rest: Any) -> Any:
            between_batches()
            tokens = super()._model_generate(context, **rest)
            listener.answered(len(context))
            return tokens

    return InMemory(
        pretrained=family.model,
        tokenizer=copy.deepcopy(family.tokenizer),  # it may give it another padding token
        backend="seq2seq" if family.model.config.is_encoder_decoder else "causal",
        batch_size=batch_size,
    )


def _scores(results: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    put_together: Mapping[str, Any] = results.get("groups", {})
    inside = {
        one
        for name in put_together
        for one in (
            *(task.task_name for task in groups[name].get_all_tasks()),
            *(group.name for group in groups[name].get_all_groups()),
        )
    }
    for name, metrics in {**results["results"], **put_together}.items():
        if name not in inside:
            for key, value in metrics.items():
                metric, comma, which = key.partition(",")
                if comma and not metric.endswith("_stderr") and isinstance(value, Real):
                    shown = metric if which == "none" else key
                    yield f"{name}/{shown}", float(value) if math.isfinite(value) else None
