"""How the effective batch is divided, and what a machine cannot train."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clkit.engine.prepare import prepare
from clkit.errors import RecipeError, UsageError
from clkit.training import arguments
from clkit.training.arguments import batch_split, task_seed
from tests.toy import toy_recipe


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(64, None, 1, (64, 1)), (64, 8, 1, (8, 8)), (64, 8, 2, (8, 4)), (64, 64, 8, (8, 1)), (1, None, 1, (1, 1))],
)
def test_micro_batches_times_processes_make_the_batch(
    batch: int, micro: int | None, processes: int, expected: tuple[int, int]
) -> None:
    assert batch_split(batch, micro, processes) == expected
    assert expected[0] * expected[1] * processes == batch


@pytest.mark.parametrize(("batch", "micro", "processes"), [(64, None, 3), (64, 24, 2), (2, None, 4)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, micro: int | None, processes: int) -> None:
    with pytest.raises(RecipeError, match=rf"training.batch_size: {batch} cannot be divided into {processes} process"):
        batch_split(batch, micro, processes)


def test_what_a_machine_cannot_train_is_refused_before_anything_is_tested(
    tmp_path: Path, toy_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(**changes: Any) -> None:
        prepare(toy_recipe(tmp_path, toy_t5, **changes))

    ready()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"training.precision: fp16 needs a GPU, and none is visible here"):
        ready(training={"precision": "fp16"})
    ready(training={"precision": "fp16"}, protocol="zero_shot")
    monkeypatch.setattr(arguments, "processes", lambda: SimpleNamespace(num_processes=3))
    with pytest.raises(RecipeError, match=r"training.batch_size: 8 cannot be divided into 3 process"):
        ready(training={"batch_size": 8})


def test_each_task_and_seed_has_its_own_draw() -> None:
    assert len({task_seed(seed, index) for seed in range(20) for index in range(20)}) == 400
