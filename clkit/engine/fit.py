"""Teaches the model what one stage of a run learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate.utils import reduce
from datasets import Dataset, concatenate_datasets

from clkit.engine.prepare import Prepared
from clkit.engine.protocols import PlannedStage
from clkit.errors import StrategyError
from clkit.events import Listener
from clkit.models.examples import encode
from clkit.models.loading import begin_task
from clkit.models.packed import packing
from clkit.processes import processes
from clkit.run.atomic import now
from clkit.run.folder import RunFolder
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.hooks import call, call_all
from clkit.tasks.task import Task
from clkit.testing.examiner import Examiner
from clkit.training.arguments import task_seed, task_steps, training_arguments
from clkit.training.checkpoints import Checkpoint, CheckpointCallback, CheckpointFolder
from clkit.training.interruption import Interruption
from clkit.training.state import load_strategies
from clkit.training.trainer import TaskTrainer, as_tested
from clkit.training.validation import Validation


@dataclass(frozen=True)
class Fitted:
    """What a stage's training took, all its attempts together; the seconds of those that were cut short left out.

    Attributes:
        examples: those of the stage itself, without what strategies made of them.
        kept_step: after how many of the steps the model was as it is kept.
        validation_loss: of that model; None where it was not measured, or is not finite.
    """

    examples: int
    steps: int
    kept_step: int
    validation_loss: float | None
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
        trainer = _trainer(prepared, stage, context, encoded, logged, folder)
        validation = _validation(prepared, stage, len(encoded), logged, gone_on_from)
        if validation is not None:  # before the callback that completes checkpoints
            trainer.add_callback(validation)
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
    steps = trainer.state.global_step
    if steps < trainer.state.max_steps and not (validation and validation.ended):
        interruption.check(f"after step {steps} of '{stage.name}'")
    trainer.refuse_broken_model()
    trainer.release_model()
    kept, loss = validation.give_back(trainer.state) if validation else (steps, None)
    call_all(strategies, "after_task", context)
    return Fitted(len(prepared.examples(stage)), steps, kept, loss, saving.seconds, saving.saving_seconds)


def _trainer(
    prepared: Prepared,
    stage: PlannedStage,
    context: Context,
    encoded: Dataset,
    listener: Listener,
    into: CheckpointFolder,
) -> TaskTrainer:
    recipe = prepared.recipe
    return TaskTrainer(
        context=context,
        strategies=prepared.strategies,
        listener=listener,
        on_nan=recipe.training.on_nan,
        matmul=recipe.training.matmul,
        model=prepared.family.model,
        args=training_arguments(recipe, stage.name, stage.position, str(into.partial)),
        train_dataset=encoded,
        data_collator=packing(context.collate) if recipe.training.packing else context.collate,
    )


def _validation(
    prepared: Prepared, stage: PlannedStage, examples: int, listener: Listener, gone_on_from: Checkpoint | None
) -> Validation | None:
    """What measures the validation loss while a stage is trained on so many examples, if the recipe says so."""
    recipe, family = prepared.recipe, prepared.family
    chosen = recipe.training.evaluate_every
    if chosen is None:
        return None
    every = math.ceil(examples / recipe.training.batch_size) if chosen == "epoch" else chosen
    split = recipe.evaluation.model_copy(update={"split": "validation"})
    examiner = Examiner(prepared.learned(stage), recipe.model_copy(update={"evaluation": split}))

    def measure() -> float:
        with as_tested(family.model):
            return examiner.loss(family, stage.learned)

    return Validation(recipe.training, every, measure, family.model, listener, gone_on_from)


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
        sum_over_processes=partial(reduce, reduction="sum"),
    )


def _training_data(prepared: Prepared, stage: PlannedStage, context: Context) -> Dataset:
    """What the stage is trained on as the model reads it: its own examples, with what the strategies make of them."""
    call_all(prepared.strategies, "before_task", context)
    own = prepared.examples(stage)
    context.examples = encode(prepared.family, own)
    dataset = own
    for strategy in prepared.strategies:
        dataset = call(strategy, "training_data", context, dataset, gives=Dataset)
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

    def validated(self, step: int, loss: float, best_step: int) -> None:
        self._write(
            event="validated", time=now(), task=self._task, step=step, validation_loss=loss, best_step=best_step
        )
        self._listener.validated(step, loss, best_step)

    def logged(self, terms: Mapping[str, float]) -> None:
        self._write(event="step", task=self._task, **terms)
        self._listener.logged(terms)

    def _write(self, **line: Any) -> None:
        if self._folder is not None:
            self._folder.log.append(line)
