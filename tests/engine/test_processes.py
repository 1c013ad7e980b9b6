"""Two processes (gloo) train as one does on the same global batch, strategies included, and only one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from safetensors.torch import load_file

from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.folder import RunFolder
from tests.engine.two_processes import RECIPES, STOPPED
from tests.general.test_ability import TEXTS
from tests.interrupting import assert_same
from tests.toy import toy_recipe

# It starts them as `torchrun` does. Port 0: any free one, so that two of these can run side by side.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
# 24 examples of the first task and 24 + 12 replayed ones of the second: whole batches. One that several processes
# cannot share evenly is filled up by accelerate with examples from the start of the epoch.
TRAINING = {"batch_size": 12, "micro_batch_size": 3, "epochs": 1.0}
MIGU = {"name": "migu", "threshold": 0.8, "mask": "update", "first_task": "masked"}


@dataclass
class Launched:
    """The recipes by their names, and the folder in which two processes trained them."""

    folder: Path
    recipes: dict[str, Recipe]

    def printed(self, name: str) -> list[str]:
        """What each process printed to stdout."""
        return [(self.folder / f"{name}-{rank}.txt").read_text() for rank in (0, 1)]


COUNTS = {"name": "tests.engine.two_processes:Counts"}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, flat_t5: Path, dropout_t5: Path) -> Launched:
    """Started once, since starting takes longer than training."""
    folder = tmp_path_factory.mktemp("two")
    replay = {"name": "replay", "number": 12, "selection": "balanced"}
    ewc = {"name": "ewc", "examples": 7}  # four of them on one process, three on the other
    adapters = {"method": "incremental_lora", "rank": 4, "dropout": 0.0}  # each process would drop other units
    recipes = {
        "full": toy_recipe(folder, flat_t5, strategies=[replay, ewc, MIGU, COUNTS], training=TRAINING),
        "incremental": toy_recipe(
            folder,
            flat_t5,
            strategies=[{"name": "olora"}, MIGU],
            tuning=adapters,
            training={**TRAINING, "group_by_length": True},
        ),
        "general": toy_recipe(folder, flat_t5, general=TEXTS, protocol="zero_shot", data={"test_per_task": 4}),
        "interrupted": toy_recipe(
            folder,
            dropout_t5,
            strategies=[{"name": "replay", "number": 12}, {"name": "migu"}],
            training={**TRAINING, "log_every": 4, "epochs": 3.0},
            evaluation={"zero_shot": False},
        ),
    }
    assert recipes.keys() == set(RECIPES)
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(recipe_yaml(recipe), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", *ACCELERATE, "-m", "tests.engine.two_processes", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return Launched(folder, recipes)


@dataclass
class Pair:
    """The runs of one recipe with one process and with two."""

    one: RunFolder
    two: RunFolder

    def logged(self, term: str, task: str = "second") -> tuple[list[Any], list[Any]]:
        """The term's values in the lines of a task, of both runs."""
        return tuple(
            [line[term] for line in run.log.read() if line["event"] == "step" and line["task"] == task]
            for run in (self.one, self.two)
        )

    def tensors(self, stage: int, file: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return tuple(load_file(run.stages()[stage].folder / file) for run in (self.one, self.two))


def both(launched: Launched, name: str) -> Pair:
    one = train(launched.recipes[name], launched.folder / f"{name}-one")
    return Pair(one, RunFolder.open(launched.folder / name))


@pytest.fixture(scope="module")
def full(launched: Launched) -> Pair:
    return both(launched, "full")


@pytest.fixture(scope="module")
def incremental(launched: Launched) -> Pair:
    return both(launched, "incremental")


@pytest.fixture(params=["full", "incremental"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    return set((before != after).any(dim=1).nonzero().flatten().tolist())


# --- both recipes -------------------------------------------------------------------------------------------------


def test_one_process_writes(launched: Launched, pair: Pair) -> None:
    main, other = launched.printed(pair.two.path.name)
    assert (main.count("average_accuracy "), other) == (1, "")
    assert (pair.two.path / "matrix.json").read_bytes() == (pair.one.path / "matrix.json").read_bytes()
    lines = [
        [(line["event"], line.get("task"), line.get("step")) for line in run.log.read()] for run in (pair.one, pair.two)
    ]
    assert lines[0] == lines[1]
    assert len(set(lines[0])) == len(lines[0]) - 2  # three evaluations, which name no task
    files = [sorted(file.relative_to(run.path) for file in run.path.rglob("*")) for run in (pair.one, pair.two)]
    assert files[0] == files[1]


def test_the_loss_and_the_masked_share_are_the_same(pair: Pair) -> None:
    for task in ("first", "second"):
        one, two = pair.logged("migu_masked_share", task)
        assert one == two
        one, two = pair.logged("task_loss", task)
        assert two == pytest.approx(one, rel=1e-4)
        one, two = pair.logged("grad_norm", task)
        assert two == pytest.approx(one, rel=1e-3)


# --- full tuning with replay, EWC and MIGU ------------------------------------------------------------------------


def test_a_strategy_sums_over_processes_before_training_too(full: Pair) -> None:
    assert [set(values) for values in full.logged("counted")] == [{1.0}, {2.0}]


def test_the_weights_are_the_same(full: Pair) -> None:
    for stage in (1, 2):
        one, two = full.tensors(stage, "model/model.safetensors")
        for name in one:
            # Sums over processes are rounded in another order; another mask would differ by whole learning rates.
            torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=0)


def test_migu_moves_the_same_rows(full: Pair, flat_t5: Path) -> None:
    start = load_file(flat_t5 / "model.safetensors")
    first, second = (full.tensors(stage, "model/model.safetensors") for stage in (1, 2))
    layers = [name for name in start if "Attention." in name or "DenseReluDense" in name]
    for before, after, steps in (((start, start), first, 2), (first, second, 3)):
        shares = []
        for name in layers:
            if "relative_attention_bias" in name:
                continue
            one, two = (moved_rows(b[name], a[name]) for b, a in zip(before, after, strict=True))
            assert one == two, name
            shares.append(len(one) / len(start[name]))
        assert min(shares) >= 0.2
        assert max(shares) <= steps * 0.25  # ⌈0.2 · 16⌉ = 4 of 16 rows in a step
        assert min(shares) < max(shares)


def test_the_fisher_information_is_the_same(full: Pair, flat_t5: Path) -> None:
    for stage in (1, 2):
        one, two = full.tensors(stage, "strategies.safetensors")
        assert one.keys() == two.keys()
        fisher = [name for name in one if name.startswith("ewc/fisher/")]
        assert len(fisher) == len(load_file(flat_t5 / "model.safetensors"))
        for name in fisher:
            torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6 * float(one[name].max()))
    one, two = full.logged("ewc_penalty")
    assert one[0] == 0  # at the weights that the first task ended with
    assert min(one[1:]) > 0
    assert two == pytest.approx(one, rel=1e-3)


def test_the_replayed_examples_are_the_same(full: Pair) -> None:
    for stage in (1, 2):
        one, two = ((run.stages()[stage].folder / "strategies.json").read_bytes() for run in (full.one, full.two))
        assert one == two
        assert one.count(b'"example"') == 12 * stage


# --- incremental LoRA with O-LoRA and MIGU ------------------------------------------------------------------------


def test_the_penalty_is_the_same(incremental: Pair) -> None:
    one, two = incremental.logged("olora_penalty")
    assert len(one) == 2
    assert min(one) > 0
    assert two == pytest.approx(one, rel=1e-4)


def test_the_adapters_are_the_same(incremental: Pair) -> None:
    for stage in (1, 2):
        one, two = incremental.tensors(stage, "adapter/adapter_model.safetensors")
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=0)
            if "lora_B" in name:  # which starts at zero
                nothing = torch.zeros_like(one[name])
                assert moved_rows(nothing, one[name]) == moved_rows(nothing, two[name])
                assert 4 <= len(moved_rows(nothing, one[name])) <= 8


# --- general ability ----------------------------------------------------------------------------------------------


def test_general_ability_is_the_same(launched: Launched) -> None:
    pair = both(launched, "general")
    main, other = launched.printed("general")
    assert (main.count("general ability, which no task taught"), other) == (1, "")
    (one,), (two,) = pair.one.stages(), pair.two.stages()
    assert one.payload["general"] == two.payload["general"]


# --- stopped ------------------------------------------------------------------------------------------------------


def test_they_stop_after_the_same_step_and_go_on(launched: Launched) -> None:
    assert launched.printed(STOPPED) == [
        f"{asked}: stopped after step 5 of 'second'; nothing is lost, and the same command with --resume goes on from "
        "here\n"
        for asked in ("a signal to another process", "SIGTERM")
    ]
    assert_same(*(RunFolder.open(launched.folder / name) for name in (STOPPED, "interrupted")))


# --- launched in a way that starts one process --------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2])
def test_several_processes_that_were_not_started_are_an_error(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside the one process that this command starts, with the environment that it gives."""
    started: dict[str, Any] = {}

    class Started:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.update(env)

        def wait(self) -> None: ...

    monkeypatch.setattr("accelerate.commands.launch.subprocess.Popen", Started)
    arguments = ["--cpu", "--num_processes", str(asked), "-m", "clkit", "train", "quickstart"]
    launch_command(launch_command_parser().parse_args(arguments))
    for name in started.keys() - os.environ.keys():
        monkeypatch.setenv(name, started[name])
    if asked == 1:
        assert processes().num_processes == 1
    else:
        with pytest.raises(UsageError, match="asked for several processes and started one; give it --multi_gpu"):
            processes()
