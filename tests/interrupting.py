"""Stops a toy run inside a task, and compares runs that went on with those that never stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from clkit.engine.sequence import train
from clkit.errors import InterruptionError
from clkit.events import Listener
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder


class Heard(Listener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.went_on_after: list[int] = []
        self.steps: list[tuple[str, int]] = []
        self._task = ""

    def noted(self, remark: str) -> None:
        self.remarks.append(remark)

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._task = task

    def resumed(self, step: int) -> None:
        self.went_on_after.append(step)

    def stepped(self, step: int) -> None:
        self.steps.append((self._task, step))


class StopsAt(Heard):
    """Sends this process a signal when a step of a task is done."""

    def __init__(self, task: str, step: int, number: int = signal.SIGUSR1) -> None:
        super().__init__()
        self._at = (task, step)
        self._number = number

    def stepped(self, step: int) -> None:
        super().stepped(step)
        if (self._task, step) == self._at:
            signal.raise_signal(self._number)


def stop(recipe: Recipe, folder: Path, task: str, step: int, **arguments: Any) -> None:
    """Train until that step, and be stopped there with a checkpoint."""
    with pytest.raises(InterruptionError, match=f"after step {step} of '{task}'"):
        train(recipe, folder, listener=StopsAt(task, step), **arguments)


def log_terms(run: RunFolder) -> list[str]:
    """The lines of the log that training writes, as text: equal to the last bit or not."""
    return [json.dumps(line) for line in run.log.read() if line["event"] == "step"]


def outcome(run: RunFolder) -> dict[str, bytes | list[str]]:
    """All that a run results in: matrix, metrics, and the weights, strategies' state and predictions of each stage."""
    files = [run.path / "matrix.json", run.path / "metrics.json"]
    for stage in run.stages():
        files += [file for file in sorted(stage.folder.rglob("*")) if file.suffix in (".safetensors", ".jsonl")]
        files += list(stage.folder.glob("strategies.json"))
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files} | {"log": log_terms(run)}


def assert_same(run: RunFolder, other: RunFolder) -> None:
    """Both came to the same outcome, to the last bit."""
    ours, theirs = outcome(run), outcome(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different, different
