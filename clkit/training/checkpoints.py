"""Checkpoints inside a task: written beside, renamed when whole, and known by their manifest when they are read.

::

    tasks/02-amazon/checkpoints/
      .partial/checkpoint-300/   one that is being written
      200/                       optimizer steps finished on this task
        model.safetensors        the parameters in training, by name
        kept.safetensors         with training.keep: best, those of the best step so far
        optimizer.pt scheduler.pt rng_state.pth trainer_state.json ...       as the Trainer writes and reads them
        strategies.json strategies.safetensors                               what strategies keep inside a task
        done.json                the engine's own state and the manifest, written last

The parameters that are not trained follow from the stage before, and so does all that strategies keep between tasks.
The Trainer's files are read with ``weights_only``: no pickle can run code.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from clkit.errors import RunError
from clkit.processes import processes
from clkit.run.atomic import sync
from clkit.run.seal import CHECKPOINTS, Done, seal_files
from clkit.strategies.contract import Context, Strategy
from clkit.training.interruption import Interruption
from clkit.training.sections import SavingSection
from clkit.training.state import save_strategies

#: At most this share of the time goes into checkpoints that are due by the clock.
SAVING_SHARE = 0.03


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        step: optimizer steps finished on this task.
        seconds: how long the task had been trained, interruptions left out.
        saving_seconds: how much of that went into checkpoints.
        processes: how many took part, each of which has its own random number generators.
        pending: what was logged since the last line of the log (`Context.pending`).
    """

    folder: Path
    step: int
    seconds: float
    saving_seconds: float
    processes: int
    pending: Mapping[str, list[float]]


class CheckpointFolder:
    """The checkpoints of one unfinished stage."""

    def __init__(self, stage: Path, log: Path) -> None:
        self.path = stage / CHECKPOINTS
        self._log = log
        #: Where the Trainer writes; what lies here is not whole.
        self.partial = self.path / ".partial"

    def complete(self, checkpoint: Checkpoint, keep: int) -> None:
        """Turn what was written into ``checkpoint.folder``, a partial one, into a checkpoint; keep the newest ones."""
        partial = checkpoint.folder
        payload = {name: value for name, value in vars(checkpoint).items() if name != "folder"}
        # JSON has no NaN, which a strategy may have logged; Python's decimals come back to the last bit.
        payload["pending"] = {name: [repr(one) for one in values] for name, values in checkpoint.pending.items()}
        for file in [*partial.iterdir(), *filter(Path.exists, [self._log])]:
            sync(file)
        Done(payload, seal_files(partial)).write(partial)
        partial.rename(self.path / str(checkpoint.step))
        sync(self.path)
        for old in self._steps()[keep:]:
            shutil.rmtree(self.path / str(old))

    def newest(self, note: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint, if there is one. ``note`` is told of every newer one that is damaged."""
        for step in self._steps():
            folder = self.path / str(step)
            try:
                return _read(folder)
            except RunError as error:
                note(f"{folder} is damaged and left out: {error}")
        return None

    def remove_partial(self) -> None:
        """Remove what was not completed."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def remove_after(self, step: int) -> None:
        """Remove every checkpoint of a later step, and what was not completed: training goes on from this step."""
        self.remove_partial()
        for later in self._steps():
            if later > step:
                shutil.rmtree(self.path / str(later))

    def _steps(self) -> list[int]:
        """The newest first."""
        found = self.path.iterdir() if self.path.is_dir() else []
        return sorted((int(folder.name) for folder in found if folder.name.isdecimal()), reverse=True)


def _read(folder: Path) -> Checkpoint:
    done = Done.read(folder)
    done.refuse_damage(folder)
    try:
        pending = {name: [float(value) for value in values] for name, values in done.payload.pop("pending").items()}
        return Checkpoint(folder=folder, pending=pending, **done.payload)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"another version of clkit wrote it ({error})") from error


class CheckpointCallback(TrainerCallback):
    """Says when the Trainer saves, completes what it saved, and ends the training when the run is asked to stop.

    Nothing that it does changes the training: a run is the same whenever, and however often, it is saved.

    Attributes:
        seconds, saving_seconds: as in `Checkpoint`, up to now.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        section: SavingSection,
        interruption: Interruption,
        context: Context,
        strategies: Sequence[Strategy],
        gone_on_from: Checkpoint | None,
    ) -> None:
        self._folder = folder
        self._section = section
        self._interruption = interruption
        self._context = context
        self._strategies = strategies
        self._before = gone_on_from.seconds if gone_on_from else 0.0
        self.saving_seconds = gone_on_from.saving_seconds if gone_on_from else 0.0
        self._started = self._saved = time.monotonic()
        self._last_took = 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        stop, due = self._agree(self._interruption.signal is not None, self._due_by_the_clock())
        if stop:
            self._interruption.join()
        if state.global_step >= state.max_steps or control.should_training_stop:
            return  # the stage itself is saved next
        steps = self._section.checkpoint_steps
        if stop or due or (steps is not None and state.global_step % steps == 0):
            control.should_save = True
            self._saving_since = time.monotonic()
        if stop:
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        process = processes()
        process.wait_for_everyone()  # each has written its own random number generators
        partial = self._folder.partial / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if process.is_main_process:
            save_strategies(self._strategies, partial, "task_state_dict")
            saved = Checkpoint(
                partial,
                step=state.global_step,
                seconds=self.seconds,
                saving_seconds=self.saving_seconds,
                processes=process.num_processes,
                pending=self._context.read_pending(),
            )
            self._folder.complete(saved, self._section.keep_checkpoints)
        self._saved = time.monotonic()
        self._last_took = self._saved - self._saving_since
        self.saving_seconds += self._last_took

    def _due_by_the_clock(self) -> bool:
        minutes = self._section.checkpoint_minutes
        if minutes is None:
            return False
        return time.monotonic() - self._saved >= max(60 * minutes, self._last_took / SAVING_SHARE)

    def _agree(self, *wanted: bool) -> list[bool]:
        """Which of these any process wants: they must save and stop after the same step."""
        if self._context.num_processes == 1:
            return list(wanted)
        flags = torch.tensor(wanted, dtype=torch.float32, device=processes().device)
        return [bool(flag) for flag in self._context.sum_over_processes(flags).tolist()]
