"""What experiment trackers hear of a run: TensorBoard, Weights & Biases, MLflow, trackio, by accelerate's classes.

A run is one run of a tracker, over all tasks, also when it is stopped and gone on with. Steps count on from task to
task. All is written into `trackers/` of the run folder, unless the environment variables of a tracker say where.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from accelerate import tracking

from clkit.errors import UsageError, first_line
from clkit.events import Listener, Plan
from clkit.recipe.recipe import Recipe
from clkit.redaction import redact
from clkit.results.kinds import LOWER_IS_BETTER
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from clkit.run.layout import TRACKED, TRACKERS, ZERO_SHOT
from clkit.training.sections import TrackerName

#: The project, or experiment, that runs belong to, where the user's environment names none.
PROJECT = "clkit"


class Tracking(Listener):
    """Passes on to the recipe's trackers what it hears. A tracker that fails is left alone from then on, with a remark.

    Nothing is begun before there is something to log: only then is it known which step that belongs to.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, told: Listener) -> None:
        self._recipe = recipe
        self._folder = folder
        self._told = told
        self._trackers: dict[TrackerName, tracking.GeneralTracker | None] = dict.fromkeys(recipe.training.report_to)
        self._rows: dict[str, Mapping[str, float | None]] = {}
        self._begins: dict[str, int] = {}
        self._stage = ""

    def started(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {**plan.rows}
        self._begins = dict(zip(plan.steps, accumulate(plan.steps.values(), initial=0), strict=False))

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._stage = task

    def logged(self, terms: Mapping[str, float]) -> None:
        told = {f"train/{name}": value for name, value in terms.items() if name != "step"}
        self._log(told, self._begins[self._stage] + int(terms["step"]))

    def validated(self, step: int, loss: float, best_step: int) -> None:
        self._log({"validation/loss": loss}, self._begins[self._stage] + step)

    def evaluated(self, stage: str, row: Mapping[str, float | None], seconds: float) -> None:
        self._rows[stage] = row
        metrics = self._matrix(stage).metrics() if stage in self._begins else {}
        scores = {f"score/{task}": score for task, score in row.items()}
        self._log(scores | {name: metric.value for name, metric in metrics.items()}, self._end(stage))

    def measured(self, stage: str, general: Mapping[str, float | None], seconds: float) -> None:
        self._log({f"general/{name}": value for name, value in general.items()}, self._end(stage))

    def finished(self) -> None:
        for name, tracker in self._trackers.items():
            if tracker is not None:
                self._guarded(name, tracker.finish)

    def _end(self, stage: str) -> int:
        return self._begins[stage] + self._plan.steps[stage] if stage in self._begins else 0

    def _matrix(self, stage: str) -> AccuracyMatrix:
        """The scores up to a stage; of a sequence over the tasks learned by then, so that there are metrics of them."""
        plan, stages = self._plan, [*self._begins]
        stages = stages[: stages.index(stage) + 1]
        known = len(stages) if plan.protocol == "sequential" else len(plan.tasks)
        tasks = [*plan.tasks][:known]

        def row(name: str) -> list[float | None]:
            return [self._rows.get(name, {}).get(task) for task in tasks]

        return AccuracyMatrix(
            tasks=tasks,
            counts=[tested for _, tested in plan.examples][:known],
            metric=plan.metric,
            higher_is_better=plan.metric not in LOWER_IS_BETTER,
            protocol=plan.protocol,
            zero_shot=row(ZERO_SHOT) if ZERO_SHOT in self._rows else None,
            rows=[row(name) for name in stages],
        )

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for name in [*self._trackers] if known else []:
            self._guarded(name, partial(self._tell, name, known, step))

    def _tell(self, name: TrackerName, values: Mapping[str, float], step: int) -> None:
        self._started(name, step).log(values, step=step)

    def _guarded(self, name: TrackerName, call: Callable[[], Any]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # stdout is for data
                call()
        except Exception as error:  # no narrower: a tracker, or the network that it uses, can raise anything
            del self._trackers[name]
            self._told.noted(f"training.report_to: {name} failed, and the run goes on without it ({first_line(error)})")

    def _started(self, name: TrackerName, step: int) -> tracking.GeneralTracker:
        tracker = self._trackers[name]
        if tracker is not None:
            return tracker
        known = self._folder.environment().get(TRACKED, {})
        begun = known.get(name)
        tracker = _MAKE[name](self._folder.path, begun, step)
        tracker.start()
        self._trackers[name] = tracker
        if begun is None:
            tracker.store_init_configuration({"run": self._folder.path.name, **_flat(self._recipe.model_dump())})
            run = tracker.tracker
            own = run.info.run_id if name == "mlflow" else str(getattr(run, "id", ""))
            self._folder.note_in_environment(**{TRACKED: {**known, name: own}})
        return tracker


def _tensorboard(run: Path, begun: str | None, step: int) -> tracking.GeneralTracker:
    """What was logged of later steps, before the run was stopped, is taken back."""
    return tracking.TensorBoardTracker("", run / TRACKERS / "tensorboard", purge_step=step)


def _wandb(run: Path, begun: str | None, step: int) -> tracking.GeneralTracker:
    folder = str(run / TRACKERS)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, folder)
    os.environ.setdefault("WANDB_SILENT", "true")  # of what it says nothing is needed, and the display is live
    os.environ.setdefault("WANDB_CONSOLE", "off")
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return tracking.WandBTracker(project, name=run.name, id=begun, resume="allow")


def _mlflow(run: Path, begun: str | None, step: int) -> tracking.GeneralTracker:
    folder = run.resolve() / TRACKERS / "mlflow"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which would be written into the home folder
    into = None  # where a server of the user's puts files, it knows itself
    if "MLFLOW_TRACKING_URI" not in os.environ:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        into = folder.as_uri()
    return tracking.MLflowTracker(PROJECT, into, run_id=begun, run_name=run.name)


class _Trackio(tracking.TrackioTracker):
    def finish(self) -> None:
        import trackio

        trackio.finish()  # accelerate ends the run alone, and trackio would end it again, with words, at the very end


def _trackio(run: Path, begun: str | None, step: int) -> tracking.GeneralTracker:
    os.environ.setdefault("TRACKIO_DIR", str(run.resolve() / TRACKERS / "trackio"))
    from trackio.utils import TRACKIO_DIR  # which it reads once in a process

    if Path(TRACKIO_DIR) != Path(os.environ["TRACKIO_DIR"]):
        raise UsageError(f"it writes into {TRACKIO_DIR} as long as this process lives; set TRACKIO_DIR to one for all")
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    return _Trackio(project, name=run.name, resume="allow", embed=False)


_MAKE: Mapping[TrackerName, Callable[[Path, str | None, int], tracking.GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def _flat(values: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as one mapping, by keys with dots, without secrets; what trackers have no type for as text."""
    if isinstance(values, Mapping):
        parts = ((f"{key}.{name}" if key else str(name), value) for name, value in values.items())
        return {name: one for part, value in parts for name, one in _flat(value, part).items()}
    return {key: values if isinstance(values, bool | int | float) else redact(str(values))}
