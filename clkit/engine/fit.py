"""Teaches the model what one stage of a run learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, concatenate_datasets

from clkit.engine.prepare import Prepared
from clkit.engine.protocols import PlannedStage
from clkit.errors import StrategyError
from clkit.events import Listener
from clkit.models.examples import encode
from clkit.models.loading import begin_task
from clkit.processes import processes
from clkit.run.atomic import now
from clkit.run.folder import RunFolder
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.hooks import call, call_all
from clkit.tasks.task import Task
from clkit.training.arguments import task_seed, task_steps, training_arguments
from clkit.training.checkpoints import Checkpoint, CheckpointCallback, CheckpointFolder
from clkit.training.interruption import Interruption
from clkit.training.state import load_strategies
from clkit.training.trainer import TaskTrainer


@dataclass(frozen=True)
class Fitted:
    """What a stage's training took, all its attempts together; the seconds of those that were cut short left out.

    Attributes:
        examples: those of the stage itself, without what strategies made of them.
    """

    examples: int
    steps: int
    training_seconds: float
    saving_seconds: float


def fit(
    prepared: Prepared,
    index: int,
    listener: Listener,
    run: RunFolder | None = None,
    *,
    interruption: Interruption | None = None,
    gone_on_from: Checkpoint | None = None,
) -> Fitted:
    """Teach the model what a stage learns.

    Args:
        index: the stage among ``prepared.stages``, from 0.
        run: whose log the loss terms go into, and in which the stage keeps its checkpoints. Without it, nothing stays.
        gone_on_from: the checkpoint of an earlier attempt. Everything else is as before the first.

    Raises:
        InterruptionError: ``interruption`` asked for it. A checkpoint was saved.
    """
    interruption = interruption or Interruption()
    recipe, family, strategies = prepared.recipe, prepared.family, prepared.strategies
    stage = prepared.stages[index]
    family.see(prepared.seen(index))
    begin_task(family, recipe.tuning, stage.position, task_seed(recipe.seed, stage.position))
    context = _context(prepared, stage)
    encoded = _training_data(prepared, stage, context)
    logged = _Logged(listener, run if processes().is_main_process else None, stage.name)
    logged.task_started(stage.name, index, task_steps(recipe, stage.name, len(encoded)))
    with TemporaryDirectory(prefix="clkit-") as scratch:
        kept_in = run or RunFolder(Path(scratch))
        folder = CheckpointFolder(kept_in.stage_folder(index + 1, stage.name), kept_in.log.path)
        trainer = TaskTrainer(
            context=context,
            strategies=strategies,
            listener=logged,
            on_nan=recipe.training.on_nan,
            matmul=recipe.training.matmul,
            model=family.model,
            args=training_arguments(recipe, stage.name, stage.position, str(folder.partial)),
            train_dataset=encoded,
            data_collator=context.collate,
        )
        saving = CheckpointCallback(folder, recipe.saving, interruption, context, strategies, gone_on_from)
        trainer.add_callback(saving)
        call_all(strategies, "before_training", context)
        if gone_on_from is not None:
            _go_on(context, strategies, gone_on_from)
            logged.resumed(gone_on_from.step)
        try:
            trainer.train(resume_from_checkpoint=str(gone_on_from.folder) if gone_on_from else None)
            processes().wait_for_everyone()  # a slower process may still look for checkpoints there
        finally:
            folder.remove_partial()
    if trainer.state.global_step < trainer.state.max_steps:
        interruption.check(f"after step {trainer.state.global_step} of '{stage.name}'")
    trainer.refuse_broken_model()
    trainer.release_model()
    call_all(strategies, "after_task", context)
    return Fitted(len(prepared.examples(stage)), trainer.state.global_step, saving.seconds, saving.saving_seconds)


def _go_on(context: Context, strategies: Sequence[Strategy], checkpoint: Checkpoint) -> None:
    """Bring context and strategies to where they were when the checkpoint was saved."""
    context.step = checkpoint.step
    context.pending.update({name: [*values] for name, values in checkpoint.pending.items()})
    load_strategies(strategies, checkpoint.folder, "load_task_state_dict")


def _context(prepared: Prepared, stage: PlannedStage) -> Context:
    family, learned, state = prepared.family, prepared.learned(stage), processes()
    return Context(
        family=family,
        task=learned[0] if len(learned) == 1 else _union(stage.name, learned),
        task_index=stage.position,
        seed=prepared.recipe.seed,
        collate=family.collator(),
        process_index=state.process_index,
        num_processes=state.num_processes,
    )


def _training_data(prepared: Prepared, stage: PlannedStage, context: Context) -> Dataset:
    """What the stage is trained on as the model reads it: its own examples, with what the strategies make of them."""
    call_all(prepared.strategies, "before_task", context)
    own = prepared.examples(stage)
    context.examples = encode(prepared.family, own)
    dataset = own
    for strategy in prepared.strategies:
        dataset = call(strategy, "training_data", context, dataset)
        if not len(dataset):
            raise StrategyError(f"strategies.{strategy.options.name}: it left no training data of '{stage.name}'")
    return context.examples if dataset is own else encode(prepared.family, dataset)


def _union(name: str, tasks: Sequence[Task]) -> Task:
    """Several tasks as one, which has neither an instruction nor labels of its own."""
    train, test = (concatenate_datasets([task.split(split) for task in tasks]) for split in ("train", "test"))
    return Task(name=name, group=name, instruction=None, labels=None, train=train, test=test)


class _Logged(Listener):
    """Passes on what is heard, and writes it into the run's log."""

    def __init__(self, listener: Listener, folder: RunFolder | None, task: str) -> None:
        self._listener = listener
        self._folder = folder
        self._task = task

    def task_started(self, task: str, index: int, steps: int) -> None:
        self._write(event="task_started", time=now(), task=task, steps=steps)
        self._listener.task_started(task, index, steps)

    def resumed(self, step: int) -> None:
        self._write(event="goes_on", time=now(), task=self._task, after=step)
        self._listener.resumed(step)

    def stepped(self, step: int) -> None:
        self._listener.stepped(step)

    def logged(self, terms: Mapping[str, float]) -> None:
        self._write(event="step", task=self._task, **terms)
        self._listener.logged(terms)

    def _write(self, **line: Any) -> None:
        if self._folder is not None:
            self._folder.log.append(line)
