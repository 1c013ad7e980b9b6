"""lm-eval's tests of the model in memory, which is given back as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

from clkit.errors import ClkitError, first_line
from clkit.events import Listener
from clkit.general.lm_eval_tasks import KEY, LmEvalTasks, quiet
from clkit.general.section import LmEvalSection
from clkit.models.family import Family

#: Seed of the draw of solved examples, lm-eval's own; the same at each measurement, so that all see the same.
FEWSHOT_SEED = 1234


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
