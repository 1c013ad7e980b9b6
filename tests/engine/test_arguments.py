"""How the effective batch is divided."""

from __future__ import annotations

import pytest

from clkit.engine.arguments import batch_split, task_seed
from clkit.errors import RecipeError


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


def test_each_task_and_seed_has_its_own_draw() -> None:
    assert len({task_seed(seed, index) for seed in range(20) for index in range(20)}) == 400
