"""The first signal stops a run where nothing is lost, the second at once; what else ends a run says what to try."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from clkit.engine.failures import explained
from clkit.engine.sequence import train
from clkit.errors import ClkitError, InterruptionError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.folder import RunFolder
from clkit.strategies.builtin.migu import MIGU
from clkit.training import interruption
from clkit.training.interruption import Interruption
from tests.interrupting import Heard, StopsAt, assert_same, stop
from tests.toy import toy_recipe

NO_ZERO_SHOT = {"zero_shot": False}


@pytest.fixture
def recipe(tmp_path: Path, flat_t5: Path) -> Recipe:
    return toy_recipe(tmp_path, flat_t5, evaluation=NO_ZERO_SHOT)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Also where the suite is run with them ignored, as under `nohup`."""
    usual = {**dict.fromkeys(interruption.SIGNALS, signal.SIG_DFL), signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interruption.SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_finishes_the_step_and_saves_it(
    tmp_path: Path, recipe: Recipe, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    listener = StopsAt("first", 2, number)
    with pytest.raises(InterruptionError) as stopped:
        train(recipe, tmp_path / "run", listener=listener)
    assert str(stopped.value) == (
        f"{number.name}: stopped after step 2 of 'first'; nothing is lost, and the same command with --resume goes on "
        "from here"
    )
    assert stopped.value.exit_code == 130
    assert listener.steps[-1] == ("first", 2)
    assert [folder.name for folder in (tmp_path / "run/tasks/01-first/checkpoints").iterdir()] == ["2"]
    assert signal.getsignal(number) is before


class StopsWhileTesting(Heard):
    """Asks to stop when the answers to a batch are there."""

    def answered(self, examples: int) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_during_a_test_it_stops_between_batches(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, evaluation={**NO_ZERO_SHOT, "batch_size": 12})
    with pytest.raises(InterruptionError, match="SIGTERM: stopped while testing; nothing is lost"):
        train(recipe, tmp_path / "run", listener=StopsWhileTesting())
    heard = Heard()
    run = train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert heard.remarks == ["first: trained before, and tested now"]
    assert [name for name, _ in heard.steps] == ["second"] * 6
    assert_same(run, train(recipe, tmp_path / "whole"))


def test_after_the_last_step_of_a_task_it_stops_when_the_task_is_saved(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(InterruptionError, match="while testing"):
        train(recipe, tmp_path / "run", listener=StopsAt("first", 6))
    assert (tmp_path / "run/tasks/01-first/trained.json").is_file()
    assert not (tmp_path / "run/tasks/01-first/checkpoints").exists()


def test_the_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interruption() as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher that passes on the terminal's Ctrl-C
        assert asked.signal == "SIGINT"
        monkeypatch.setattr(interruption, "SAME_REQUEST", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ignored_signals_and_other_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Interruption() as asked:
            signal.raise_signal(signal.SIGUSR1)
            assert asked.signal is None
    finally:
        signal.signal(signal.SIGUSR1, before)

    def elsewhere() -> None:
        with Interruption():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_the_command_stops_with_one_line_and_goes_on(tmp_path: Path, flat_t5: Path) -> None:
    """A real SIGTERM to a real process, in the middle of ten thousand steps."""
    recipe = toy_recipe(
        tmp_path, flat_t5, training={"per_task": {"second": {"epochs": 3333.0}}}, evaluation=NO_ZERO_SHOT
    )
    (tmp_path / "toy.yaml").write_text(recipe_yaml(recipe), "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "clkit", "train", str(tmp_path / "toy.yaml"), "--run", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: '"second", "step": 2' in read(tmp_path / "run/log.jsonl"), process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    last = stderr.strip().splitlines()[-1]
    found = re.fullmatch(r"error: SIGTERM: stopped after step (\d+) of 'second'; nothing is lost, .* --resume .*", last)
    assert found is not None, stderr
    (checkpoint,) = (tmp_path / "run/tasks/02-second/checkpoints").iterdir()
    assert checkpoint.name == found[1]
    assert not (tmp_path / "run/lock.json").exists()


def read(file: Path) -> str:
    return file.read_text("utf-8") if file.is_file() else ""


def wait_for(reached: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "not reached in ten minutes"
        time.sleep(0.05)


# --- memory, disk, NaN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "training.micro_batch_size"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk of runs/x"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "no space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), "no space left"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (OSError(errno.EACCES, "Permission denied"), None),
    ],
)
def test_what_a_run_dies_of_is_explained(error: Exception, says: str | None) -> None:
    found = explained(error, Path("runs/x"))
    assert (found is None) is (says is None)
    if found is not None:
        assert str(says) in str(found)
        assert "--resume" in str(found)
        assert "\n" not in str(found)


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = recipe.model_copy(update={"saving": recipe.saving.model_copy(update={"checkpoint_steps": 2})})
    whole = train(recipe, tmp_path / "whole")
    proper = torch.save
    written: list[Any] = []

    def full(content: Any, file: Any) -> None:
        written.append(file)
        if len(written) == 5:  # the second of the second checkpoint's three
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
        proper(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ClkitError, match="no space left on the disk"):
        train(saving, tmp_path / "run")
    monkeypatch.undo()
    kept = tmp_path / "run/tasks/01-first/checkpoints"
    assert [entry.name for entry in kept.iterdir()] == ["2"]  # room is made at once
    assert_same(train(saving, tmp_path / "run", resume=True), whole)


def poison(monkeypatch: pytest.MonkeyPatch, task_index: int, step: int) -> None:
    """Make the gradient of one step infinite."""
    proper = MIGU.before_step

    def poisoned(self: MIGU, context: Any) -> None:
        proper(self, context)
        if (context.task_index, context.step) == (task_index, step):
            next(iter(context.model.parameters())).grad[0] = torch.inf

    monkeypatch.setattr(MIGU, "before_step", poisoned)


def with_nan(folder: Path, model: Path, on_nan: str) -> Recipe:
    return toy_recipe(
        folder,
        model,
        strategies=[{"name": "migu", "threshold": 0.5, "first_task": "masked"}],
        training={"on_nan": on_nan, "log_every": 3},
        evaluation=NO_ZERO_SHOT,
    )


def test_a_step_with_nan_is_skipped_and_counted_where_asked(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, task_index=1, step=4)
    recipe = with_nan(tmp_path, flat_t5, "skip")
    moved: list[bool] = []

    def watched(self: MIGU, context: Any) -> None:
        if context.task_index == 1 and context.step in (3, 4, 5):
            now = torch.cat([parameter.detach().flatten() for parameter in context.model.parameters()])
            moved.append(not torch.equal(now, before.get("weights", now + 1)))
            before["weights"] = now.clone()

    before: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(MIGU, "after_step", watched)
    whole = train(recipe, tmp_path / "whole")
    assert moved == [True, False, True]
    lines = {(line["task"], line["step"]): line for line in whole.log.read() if line["event"] == "step"}
    assert [place for place, line in lines.items() if "skipped_steps" in line] == [("second", 6)]
    assert lines["second", 6]["skipped_steps"] == 1
    assert 0 < lines["second", 6]["task_loss"] < 100

    stop(recipe, tmp_path / "run", "second", 5)  # what was counted since the last line is in the checkpoint
    assert_same(train(recipe, tmp_path / "run", resume=True), whole)


def test_a_run_that_nan_stopped_goes_on_with_skip(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, task_index=1, step=2)
    with pytest.raises(ClkitError, match=r"'second' is nan at step \d; .* go on with training.on_nan=skip --resume"):
        train(with_nan(tmp_path, flat_t5, "stop"), tmp_path / "run")
    run = train(with_nan(tmp_path, flat_t5, "skip"), tmp_path / "run", resume=True)
    assert_same(run, train(with_nan(tmp_path, flat_t5, "skip"), tmp_path / "whole"))
    assert [stage.name for stage in RunFolder.open(run.path).stages()] == ["first", "second"]
