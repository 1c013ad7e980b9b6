"""Going on inside a task equals never having stopped; a checkpoint that is not whole is told from one that is."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from clkit.engine.sequence import train
from clkit.errors import ClkitError, RunError
from clkit.models.loading import load_model
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.run.seal import Done, seal_files
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions
from clkit.training import trainer
from clkit.training.checkpoints import Checkpoint, CheckpointCallback, CheckpointFolder
from clkit.training.interruption import Interruption
from clkit.training.sections import SavingSection
from clkit.training.trainer import TaskTrainer
from tests.interrupting import Heard, assert_same, log_terms, stop
from tests.toy import toy_recipe

REPO = Path(__file__).parents[2]
MIGU = {"name": "migu", "threshold": 0.5, "source": "random"}  # its draws hang on the step
REPLAY = {"name": "replay", "number": 10}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, dropout_t5: Path) -> Recipe:
    """Six steps of the first task, ten of the second: three, then five an epoch. A log line stands for four steps."""
    return toy_recipe(
        tmp_path_factory.mktemp("data"),
        dropout_t5,
        strategies=[REPLAY, MIGU],
        training={"micro_batch_size": 4, "log_every": 4, "schedule": "cosine", "warmup_ratio": 0.2},
        evaluation={"zero_shot": False},
    )


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(recipe, tmp_path_factory.mktemp("whole") / "run")


def with_saving(recipe: Recipe, **saving: Any) -> Recipe:
    return recipe.model_copy(update={"saving": SavingSection(**saving)})


# --- the same to the last bit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "step"),
    [("first", 1), ("first", 3), ("second", 2), ("second", 5), ("second", 9)],
    ids=["after a line of the log", "at the end of an epoch", "in the first epoch", "at its end", "before the last"],
)
def test_going_on_equals_never_having_stopped(
    recipe: Recipe, whole: RunFolder, tmp_path: Path, task: str, step: int
) -> None:
    stop(recipe, tmp_path / "run", task, step)
    heard = Heard()
    run = train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert heard.went_on_after == [step]
    assert next(done for name, done in heard.steps if name == task) == step + 1
    assert_same(run, whole)


def test_however_often_it_is_saved_and_stopped(recipe: Recipe, whole: RunFolder, tmp_path: Path) -> None:
    often = with_saving(recipe, checkpoint_steps=1, keep_checkpoints=3)
    stop(often, tmp_path / "run", "first", 2)
    stop(often, tmp_path / "run", "second", 4, resume=True)
    kept = tmp_path / "run/tasks/02-second/checkpoints"
    assert sorted(folder.name for folder in kept.iterdir()) == ["2", "3", "4"]
    assert not (tmp_path / "run/tasks/01-first/checkpoints").exists()
    stop(often, tmp_path / "run", "second", 5, resume=True)
    assert_same(train(often, tmp_path / "run", resume=True), whole)
    assert not kept.exists()


class Crash(Heard):
    """Fails as a killed process does: without a word to anybody."""

    def __init__(self, task: str, step: int) -> None:
        super().__init__()
        self._at = (task, step)

    def stepped(self, step: int) -> None:
        super().stepped(step)
        if self.steps[-1] == self._at:
            raise RuntimeError("killed")


def crash(recipe: Recipe, folder: Path, task: str, step: int) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(recipe, folder, listener=Crash(task, step))


def test_steps_after_the_checkpoint_are_repeated_and_logged_once(
    recipe: Recipe, whole: RunFolder, tmp_path: Path
) -> None:
    saving = with_saving(recipe, checkpoint_steps=3)
    crash(saving, tmp_path / "run", "second", 9)
    logged = [(line["task"], line["step"]) for line in map(json.loads, log_terms(RunFolder.open(tmp_path / "run")))]
    assert logged == [("first", 1), ("first", 4), ("second", 1), ("second", 4), ("second", 8)]
    heard = Heard()
    run = train(saving, tmp_path / "run", resume=True, listener=heard)
    assert heard.went_on_after == [6]
    assert_same(run, whole)


def test_without_a_checkpoint_the_task_is_begun_anew(recipe: Recipe, whole: RunFolder, tmp_path: Path) -> None:
    crash(recipe, tmp_path / "run", "second", 5)
    heard = Heard()
    run = train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert heard.went_on_after == []
    assert heard.steps[0] == ("second", 1)
    assert_same(run, whole)


@pytest.mark.parametrize("broken", ["_evaluate", "_finish"])
def test_a_trained_task_is_tested_without_being_trained_again(
    recipe: Recipe, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from clkit.engine import stages

    proper = getattr(stages.Stages, broken)

    def killed(self: Any, stage: Any, *rest: Any) -> Any:
        if stage in ("second", 2):
            raise RuntimeError("killed")
        return proper(self, stage, *rest)

    monkeypatch.setattr(stages.Stages, broken, killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    heard = Heard()
    run = train(recipe, tmp_path / "run", resume=True, listener=heard)
    assert heard.remarks == ["second: trained before, and tested now"]
    assert heard.steps == []
    assert_same(run, whole)


def test_a_half_written_model_is_not_taken_for_a_trained_one(
    recipe: Recipe, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clkit.engine import stages

    def half(strategies: Any, stage: Path) -> None:
        (stage / "model" / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(stages, "save_strategies", half)
    saving = with_saving(recipe, checkpoint_steps=5)
    with pytest.raises(RuntimeError, match="killed"):
        train(saving, tmp_path / "run")
    monkeypatch.undo()
    heard = Heard()
    run = train(saving, tmp_path / "run", resume=True, listener=heard)
    assert heard.went_on_after == [5]
    assert_same(run, whole)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_it_does_not_matter_where_in_a_file_the_weights_lie(tmp_path: Path, flat_t5: Path, tuning: str) -> None:
    """On a CPU the last bit of a matrix product can hang on a tensor's address, which a mapped file decides."""
    model = tmp_path / "model"
    shutil.copytree(flat_t5, model)
    tensors = load_file(model / "model.safetensors")
    starts = set()
    for header in range(0, 64, 8):
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt", "more": "x" * header})
        starts.add(next(iter(load_file(model / "model.safetensors").values())).data_ptr() % 64)
        recipe = toy_recipe(tmp_path, model, tuning={"method": tuning})
        loaded = load_model(recipe.model, recipe.tuning)
        assert {parameter.data_ptr() % 64 for parameter in loaded.model.parameters()} == {0}
    assert len(starts) > 1  # the control


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 4 and 5 of the second task's ten steps; nobody changes it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop(with_saving(recipe, checkpoint_steps=4), folder, "second", 5)
    return folder


@pytest.fixture
def stopped(stopped_run: Path, tmp_path: Path) -> Path:
    """The checkpoints of a copy of that run."""
    shutil.copytree(stopped_run, tmp_path / "run")
    return tmp_path / "run/tasks/02-second/checkpoints"


DAMAGE = {
    "a file is missing": lambda folder: (folder / "optimizer.pt").unlink(),
    "a file is cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
    "one bit is another": lambda folder: flip(folder / "model.safetensors"),
    "no manifest": lambda folder: (folder / "done.json").unlink(),
    "another step": lambda folder: (folder / "done.json").write_text(
        (folder / "done.json").read_text().replace('"step": 5', '"step": 6')
    ),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_left_out_with_one_line(
    recipe: Recipe, whole: RunFolder, stopped: Path, damage: str
) -> None:
    DAMAGE[damage](stopped / "5")
    (stopped / ".partial" / "checkpoint-6").mkdir(parents=True)
    heard = Heard()
    run = train(recipe, stopped.parents[2], resume=True, listener=heard)
    (remark,) = heard.remarks
    assert remark.startswith(f"{stopped / '5'} is damaged and left out: ")
    assert "\n" not in remark
    assert heard.went_on_after == [4]
    assert_same(run, whole)


def test_if_all_are_damaged_the_task_is_begun_anew(recipe: Recipe, whole: RunFolder, stopped: Path) -> None:
    for folder in stopped.iterdir():
        flip(folder / "rng_state.pth")
    heard = Heard()
    run = train(recipe, stopped.parents[2], resume=True, listener=heard)
    assert len(heard.remarks) == 2
    assert heard.went_on_after == []
    assert_same(run, whole)


def test_no_pickle_is_run(recipe: Recipe, stopped: Path, tmp_path: Path) -> None:
    """Even one with a manifest that fits."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    folder = stopped / "5"
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert pickle.loads(pickle.dumps(Bomb())) is None  # the control
        (tmp_path / "exploded").unlink()
        proper = (folder / file).read_bytes()
        torch.save(Bomb(), folder / file)
        Done(Done.read(folder).payload, seal_files(folder)).write(folder)
        with pytest.raises(pickle.UnpicklingError):
            train(recipe, stopped.parents[2], resume=True)
        assert not (tmp_path / "exploded").exists()
        (folder / file).write_bytes(proper)


def test_only_what_is_trained_is_in_it(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, tuning={"method": "lora", "rank": 2}, evaluation={"zero_shot": False})
    stop(recipe, tmp_path / "run", "first", 2)
    folder = tmp_path / "run/tasks/01-first/checkpoints/2"
    tensors = load_file(folder / "model.safetensors")
    assert tensors
    assert all("lora_" in name for name in tensors)
    assert {file.name for file in folder.iterdir()} == {
        "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
        "strategies.json", "strategies.safetensors", "done.json",
    }  # fmt: skip


def test_other_parameters_are_refused(recipe: Recipe, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proper = trainer.trained_parameters
    monkeypatch.setattr(trainer, "trained_parameters", lambda model: dict(list(proper(model).items())[1:]))
    with pytest.raises(RunError, match=r"5 holds other parameters than are in training \(shared\.weight, \.\.\.\)"):
        train(recipe, stopped.parents[2], resume=True)


# --- what strategies keep inside a task ---------------------------------------------------------------------------


class DampingOptions(StrategyOptions):
    name: Any = "damping"


class Damping(Strategy):
    """Holds each parameter back by the path that it has gone so far: it needs to know the path, and where it began."""

    name: ClassVar[str] = "damping"

    def before_training(self, context: Context) -> None:
        self._start = [parameter.detach().clone() for parameter in context.model.parameters()]
        self._gone = torch.zeros(())

    def before_step(self, context: Context) -> None:
        for parameter in context.model.parameters():
            parameter.grad /= 1 + self._gone
        context.log(gone=float(self._gone))

    @torch.no_grad()
    def after_step(self, context: Context) -> None:
        distances = [(a - b).norm() for a, b in zip(context.model.parameters(), self._start, strict=True)]
        self._gone = self._gone + torch.stack(distances).sum()

    def task_state_dict(self) -> dict[str, Any]:
        return {"gone": self._gone}

    def load_task_state_dict(self, state: Mapping[str, Any]) -> None:
        self._gone = state["gone"]


def test_a_strategys_state_inside_the_task_is_restored(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "tests.training.test_checkpoints:Damping"}
    recipe = toy_recipe(tmp_path, flat_t5, strategies=[entry], evaluation={"zero_shot": False})
    whole = train(recipe, tmp_path / "whole")
    stop(recipe, tmp_path / "run", "second", 3)
    shutil.copytree(tmp_path / "run", tmp_path / "forgetful")
    assert_same(train(recipe, tmp_path / "run", resume=True), whole)
    monkeypatch.setattr(Damping, "load_task_state_dict", lambda self, state: None)  # the control
    with pytest.raises(AssertionError):
        assert_same(train(recipe, tmp_path / "forgetful", resume=True), whole)


def test_state_inside_a_task_that_nobody_knows_is_refused() -> None:
    class Bare(Strategy):
        name = "bare"

    with pytest.raises(KeyError, match="bare has no state inside a task, but was given"):
        Bare(StrategyOptions(name="bare")).load_task_state_dict({"gone": 1})


# --- when it is saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "took", "since", "due"),
    [
        (10.0, 0.0, 599, False),
        (10.0, 0.0, 600, True),
        (10.0, 30.0, 999, False),
        (10.0, 30.0, 1000, True),
        (None, 0.0, 1e9, False),
    ],
)
def test_by_the_clock_it_takes_three_percent_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float | None, took: float, since: float, due: bool
) -> None:
    clock = [100.0]
    monkeypatch.setattr("clkit.training.checkpoints.time.monotonic", lambda: clock[0])
    callback = CheckpointCallback(
        CheckpointFolder(tmp_path, tmp_path / "log.jsonl"),
        SavingSection(checkpoint_minutes=minutes),
        Interruption(),
        context=None,  # type: ignore[arg-type]
        strategies=[],
        gone_on_from=None,
    )
    callback._last_took = took
    clock[0] += since
    assert callback._due_by_the_clock() is due


def test_the_seconds_of_all_attempts_add_up(recipe: Recipe, stopped: Path, tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(stopped.parent, tmp_path / "log.jsonl").newest(pytest.fail)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.seconds > checkpoint.saving_seconds >= 0
    payload = train(recipe, stopped.parents[2], resume=True).stages()[-1].payload
    assert payload["training_seconds"] > checkpoint.seconds
    assert payload["steps"] == 10


def test_pending_terms_come_back_to_the_last_bit(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, tmp_path / "log.jsonl")
    pending = {"task_loss": [0.1 + 0.2, 1e-310], "ratio": [float("inf")]}
    (folder.partial / "checkpoint-7").mkdir(parents=True)
    folder.complete(Checkpoint(folder.partial / "checkpoint-7", 7, 1.5, 0.5, 1, pending), keep=1)
    read = folder.newest(pytest.fail)
    assert read == Checkpoint(folder.path / "7", 7, 1.5, 0.5, 1, pending)


# --- killed -------------------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been() -> None:
    command = [
        sys.executable,
        str(REPO / "benchmarks" / "kill_and_resume.py"),
        *("--kills", "2", "--seed", "57"),  # after about one third and two thirds of a run
        *("--methods", "migu+replay"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPO)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "migu+replay: 2 of 2" in done.stdout


def test_a_checkpoint_with_nan_is_never_written(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proper = TaskTrainer.training_step

    def broken(self: TaskTrainer, model: Any, inputs: Any, *more: Any) -> torch.Tensor:
        loss = proper(self, model, inputs, *more)
        if self.state.global_step == 2:
            model.shared.weight.grad[0] = torch.nan
        return loss

    monkeypatch.setattr(TaskTrainer, "training_step", broken)
    with pytest.raises(ClkitError, match=r"the loss of task 'first' is nan at step 3"):  # and not at the line of step 4
        train(with_saving(recipe, checkpoint_steps=1), tmp_path / "run")
    kept = [folder.name for folder in (tmp_path / "run/tasks/01-first/checkpoints").iterdir()]
    assert sorted(kept) == ["1", "2"]
