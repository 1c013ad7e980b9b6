"""What trackers hear of a run: one run over all tasks, also of one that was stopped; nothing is written elsewhere."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from clkit.engine import tracking
from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.recipe import inputs
from clkit.recipe.recipe import Recipe
from clkit.run.doctor import examine
from clkit.run.folder import RunFolder
from clkit.run.place import check_free
from tests.interrupting import Heard, assert_same, stop
from tests.toy import toy_recipe

#: Five steps a task; the log has the first and each second one.
CHANGES: dict[str, Any] = {
    "data": {"test_per_task": 4, "validation_share": 0.2},
    "training": {"batch_size": 4, "epochs": 1.0, "log_every": 2, "evaluate_every": 5, "learning_rate": 1e-2},
}


def tracked(folder: Path, model: Path, *names: str, **training: Any) -> Recipe:
    changes = {**CHANGES, "training": CHANGES["training"] | training | {"report_to": [*names]}}
    return toy_recipe(folder, model, **changes)


class Recorder(tracking.tracking.GeneralTracker):
    """Writes down what it is told."""

    name = "recorder"
    requires_logging_directory = False
    id = "a-name"

    def __init__(self, begun: str | None, step: int) -> None:
        self.begun, self.first = begun, step
        self.settings: dict[str, Any] | None = None
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.ended = False

    def start(self) -> None:
        pass

    @property
    def tracker(self) -> Any:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **more: Any) -> None:
        assert step is not None
        self.lines.append((step, values))

    def finish(self) -> None:
        self.ended = True

    def steps_of(self, name: str) -> list[int]:
        return [step for step, values in self.lines if name in values]

    def last(self, name: str) -> float:
        return [values[name] for _, values in self.lines if name in values][-1]


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """What stands for TensorBoard, one for each attempt of a run."""
    made: list[Recorder] = []

    def make(run: Path, begun: str | None, step: int) -> Recorder:
        made.append(Recorder(begun, step))
        return made[-1]

    monkeypatch.setitem(tracking._MAKE, "tensorboard", make)  # type: ignore[arg-type]
    monkeypatch.setattr(inputs, "find_spec", lambda name: True)
    return made


def test_one_run_of_the_tracker_has_all_tasks(tmp_path: Path, flat_t5: Path, recorders: list[Recorder]) -> None:
    run = train(tracked(tmp_path, flat_t5, "tensorboard"), tmp_path / "run")
    (told,) = recorders
    assert told.ended
    first, second = (stage.payload["steps"] for stage in run.stages()[1:])
    validated = [(line["task"], line["step"]) for line in run.log.read() if line["event"] == "validated"]
    assert told.steps_of("validation/loss") == [step + first * (task == "second") for task, step in validated]
    logged = [(line["task"], line["step"]) for line in run.log.read() if line["event"] == "step"]
    assert told.steps_of("train/task_loss") == [step + first * (task == "second") for task, step in logged]
    assert told.steps_of("score/second") == [0, first + second]  # before the first task, and when it was learned
    assert told.settings is not None
    assert told.settings["run"] == "run"
    assert told.settings["training.batch_size"] == 4
    for name, metric in run.matrix.metrics().items():
        if metric.value is not None:
            assert told.last(name) == metric.value
    assert told.steps_of("average_accuracy") == [first, first + second]
    assert told.steps_of("bwt") == [first + second]


def test_going_on_goes_on_with_the_trackers_run(tmp_path: Path, flat_t5: Path, recorders: list[Recorder]) -> None:
    recipe = tracked(tmp_path, flat_t5, "tensorboard")
    stop(recipe, tmp_path / "run", "second", 2)
    run = train(recipe, tmp_path / "run", resume=True)
    before, after = recorders
    assert before.ended
    assert (before.begun, after.begun, after.settings) == (None, "a-name", None)
    assert after.first == after.lines[0][0] == run.stages()[1].payload["steps"] + 4
    train(tracked(tmp_path, flat_t5), tmp_path / "plain")  # trackers may be left out later: they change no result
    assert_same(run, RunFolder.open(tmp_path / "plain"))
    assert after.last("bwt") == run.matrix.metrics()["bwt"].value


def test_a_tracker_that_fails_is_left_alone(
    tmp_path: Path, flat_t5: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Recorder, values: Any, step: int | None = None, **more: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Recorder, "log", refused)
    heard = Heard()
    run = train(tracked(tmp_path, flat_t5, "tensorboard"), tmp_path / "run", listener=heard)
    said = "training.report_to: tensorboard failed, and the run goes on without it (no route"
    assert [one for one in heard.remarks if "report_to" in one] == [f"{said})"]
    assert len(run.stages()) == 3


def test_a_tracker_that_is_not_installed_is_refused(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "find_spec", lambda name: None)
    recipe = tracked(tmp_path, flat_t5, "wandb", "mlflow")
    said = "training.report_to: wandb is not installed: `pip install 'clkit[wandb]'`"
    assert inputs.missing_inputs(recipe) == [said, said.replace("wandb", "mlflow")]
    with pytest.raises(UsageError, match=r"training\.report_to: wandb is not installed"):
        prepare(recipe)


# --- the real ones ------------------------------------------------------------------------------------------------


def of_tensorboard(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [one.step for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def of_mlflow(folder: Path) -> dict[str, list[int]]:
    rows = _rows(folder / "mlflow/mlflow.db", "select key, step from metrics order by step")
    return _by_name(rows)


def of_trackio(folder: Path) -> dict[str, list[int]]:
    rows = _rows(folder / "trackio/clkit.db", "select metrics, step from metrics order by step")
    return _by_name([(name, step) for metrics, step in rows for name in json.loads(metrics)])


def _rows(file: Path, query: str) -> list[tuple[str, int]]:
    with sqlite3.connect(file) as base:
        return base.execute(query).fetchall()


def _by_name(rows: list[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, step in rows:
        found.setdefault(name, []).append(step)
    return found


READ = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "trackio": of_trackio}


@pytest.mark.parametrize("name", [*READ, "wandb"])
def test_the_tracker_has_what_the_log_has_and_writes_nowhere_else(
    name: str, tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"needs {name} (pip install 'clkit[{name}]')")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(home)
    heard = Heard()
    recipe = tracked(tmp_path, flat_t5, name)
    stop(recipe, tmp_path / "run", "second", 2)
    run = train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert not [one for one in heard.remarks if "report_to" in one]
    first = run.stages()[1].payload["steps"]
    logged = [line["step"] + first * (line["task"] == "second") for line in run.log.read() if line["event"] == "step"]
    if name == "wandb":  # whose own form has no public reader
        files = sorted((run.path / "trackers").glob("wandb/offline-run-*/*.wandb"))
        assert {file.stem for file in files} == {f"run-{run.environment()['tracked']['wandb']}"}
        assert len(files) == 2
        assert all(b"train/task_loss" in file.read_bytes() for file in files)
        assert b"bwt" in files[1].read_bytes()
    else:
        found = READ[name](run.path / "trackers")
        assert sorted({*found["train/task_loss"]}) == logged
        assert found["score/second"][-1] == found["bwt"][-1] == first + run.stages()[2].payload["steps"]
    assert [*home.rglob("*")] == []
    assert all(one.state == "whole" for one in examine(run.path))
    check_free(run.path, overwrite=True)
