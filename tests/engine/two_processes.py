"""What each of two processes does in `test_processes.py`, which starts them once for all its tests.

::

    accelerate launch --multi_gpu --num_processes 2 -m tests.engine.two_processes FOLDER

FOLDER holds recipes. Each goes through `clkit train` into the folder of the recipe's name, and what that prints into
`NAME-RANK.txt`. The recipe `interrupted` is then trained once more, into `stopped`: the second process alone is asked
to stop, and both go on afterwards.
"""

from __future__ import annotations

import gc
import sys
from contextlib import redirect_stdout
from pathlib import Path
from signal import SIGTERM, raise_signal
from typing import Any, ClassVar

import torch

from clkit.cli.app import app
from clkit.engine.sequence import train
from clkit.errors import InterruptionError
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Context, Strategy
from clkit.training.trainer import _Reports


class Counts(Strategy):
    """Logs how many processes there are, as their sum says before the task's training is built."""

    name: ClassVar[str] = "counts"

    def before_task(self, context: Context) -> None:
        self.counted = context.sum_over_processes(torch.ones(1))

    def before_forward(self, context: Context, batch: Any) -> None:
        context.log(counted=self.counted)


RECIPES = ("full", "incremental", "general", "interrupted")
STOPPED = "stopped"


def run_all(folder: Path) -> None:
    rank = processes().process_index
    for name in RECIPES:
        with (folder / f"{name}-{rank}.txt").open("w") as printed, redirect_stdout(printed):
            app(["train", str(folder / f"{name}.yaml"), "--run", str(folder / name)], standalone_mode=False)
    with (folder / f"{STOPPED}-{rank}.txt").open("w") as printed, redirect_stdout(printed):
        stop_and_go_on(Recipe.load(folder / "interrupted.yaml"), folder / STOPPED)


def stop_and_go_on(recipe: Recipe, run: Path) -> None:
    """Train, and be stopped after the fifth step of the second task by a signal to the second process."""
    proper = _Reports.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if (processes().process_index, self._context.task.name, state.global_step) == (1, "second", 5):
            raise_signal(SIGTERM)
        proper(self, args, state, control, **more)

    _Reports.on_step_end = on_step_end  # type: ignore[method-assign]
    try:
        train(recipe, run)
    except InterruptionError as error:
        print(error)
    _Reports.on_step_end = proper  # type: ignore[method-assign]
    processes().wait_for_everyone()
    train(recipe, run, resume=True)


if __name__ == "__main__":
    gc.freeze()  # as in `tests/conftest.py`
    run_all(Path(sys.argv[1]))
