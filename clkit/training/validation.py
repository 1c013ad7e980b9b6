"""The loss on the validation split while a task is trained: whose step's weights are kept, and when it is enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from clkit.events import Listener
from clkit.models.layers import trained_parameters
from clkit.processes import processes
from clkit.training.checkpoints import Checkpoint
from clkit.training.sections import TrainingSection

#: In a checkpoint, the parameters of the best step so far.
KEPT = "kept.safetensors"


class Validation(TrainerCallback):
    """Measures the loss every so many steps and after the last; with `keep: best` it holds the best step's parameters.

    They are held in main memory, and in every checkpoint, so that a run which goes on keeps the same ones. Which step
    it was stands in the Trainer's state. Measuring draws nothing at random: training is the same with and without it.

    Args:
        every: optimizer steps between two measurements.
        measure: gives the loss, the same on every process.

    Attributes:
        ended: whether it ended the training before its last step.
    """

    def __init__(
        self,
        section: TrainingSection,
        every: int,
        measure: Callable[[], float],
        model: nn.Module,
        listener: Listener,
        gone_on_from: Checkpoint | None,
    ) -> None:
        self._section = section
        self._every = every
        self._measure = measure
        self._model = model
        self._listener = listener
        self._kept: dict[str, torch.Tensor] = {}
        self._last = math.nan
        self.ended = False
        if gone_on_from is not None and (gone_on_from.folder / KEPT).is_file():
            self._kept = {name: one.clone() for name, one in load_file(gone_on_from.folder / KEPT).items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        if state.global_step % self._every and not last:
            return
        self._last = loss = self._measure()
        if math.isfinite(loss) and (state.best_metric is None or loss < state.best_metric):
            state.best_metric, state.best_global_step = loss, state.global_step
            if self._section.keep == "best":
                trained = trained_parameters(self._model)
                self._kept = {name: one.detach().to("cpu", copy=True) for name, one in trained.items()}
        best, patience = state.best_global_step or 0, self._section.patience
        self._listener.validated(state.global_step, loss, best)
        if patience is not None and not last and state.global_step - best >= patience * self._every:
            self.ended = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._kept and processes().is_main_process:
            save_file(self._kept, Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", KEPT))

    def give_back(self, state: TrainerState) -> tuple[int, float | None]:
        """Give the model the parameters that are kept; after which step they were, and the loss then, if it is finite.

        Where no loss was finite, those of the last step stay.
        """
        if not self._kept:
            return state.global_step, self._last if math.isfinite(self._last) else None
        with torch.no_grad():
            for name, parameter in trained_parameters(self._model).items():
                parameter.copy_(self._kept[name])
        assert state.best_global_step is not None
        return state.best_global_step, state.best_metric
