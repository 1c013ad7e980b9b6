"""What learns: the model with its strategies, made ready from a recipe, and the training of one task."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset, concatenate_datasets

from clkit.engine.protocols import PlannedStage, lineage, planned_stages
from clkit.errors import ModelError, StrategyError, UsageError
from clkit.events import Listener, Plan
from clkit.general.ability import General
from clkit.models.examples import encode, task_examples
from clkit.models.loading import LoadedModel, begin_task, describe, load_model
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.registry import load_strategy
from clkit.tasks.loading import load_tasks
from clkit.tasks.task import Task
from clkit.training.arguments import check_training, task_seed, task_steps, training_arguments
from clkit.training.checkpoints import Checkpoint, CheckpointCallback, CheckpointFolder
from clkit.training.interruption import Interruption
from clkit.training.state import load_strategies, load_task_states
from clkit.training.trainer import TaskTrainer


@dataclass
class Prepared:
    """A recipe with everything it names loaded."""

    recipe: Recipe
    tasks: list[Task]
    loaded: LoadedModel
    strategies: list[Strategy]
    general: General | None

    def __post_init__(self) -> None:
        self.stages = planned_stages(self.recipe)
        self._examples: dict[str, Dataset] = {}

    def renew(self) -> None:
        """Replace the model by a fresh copy of the pre-trained one, the same that `prepare` made."""
        del self.loaded  # two at once might not fit; reference cycles of the finished Trainer hold it until collected
        gc.collect()
        self.loaded = load_learner(self.recipe, self.tasks)

    def learned(self, stage: PlannedStage) -> list[Task]:
        """The tasks that a stage learns."""
        return [task for task in self.tasks if task.name in stage.learned]

    def seen(self, index: int) -> list[str]:
        """The tasks that the model of stage ``index`` has learned, from 0; those of that stage last."""
        return [name for stage in self.stages[lineage(self.stages, index)] for name in stage.learned]

    def examples(self, stage: PlannedStage) -> Dataset:
        """What a stage learns, the tasks one after the other: columns `prompt`, `answer` and `task`."""
        for task in self.learned(stage):
            if task.name not in self._examples:
                self._examples[task.name] = task_examples(task, "train", self.loaded.tokenizer, self.recipe)
        return concatenate_datasets([self._examples[name] for name in stage.learned])

    def _steps(self) -> dict[str, int]:
        own = [len(self.examples(stage)) for stage in self.stages]
        steps = {}
        for index, stage in enumerate(self.stages):
            so_far = own[lineage(self.stages, index)]
            replayed = sum(strategy.replayed(so_far) for strategy in self.strategies)
            steps[stage.name] = task_steps(self.recipe, stage.name, own[index] + replayed)
        return steps

    def plan(self) -> Plan:
        """What training is going to do."""
        return Plan(
            name=self.recipe.name,
            protocol=self.recipe.protocol,
            metric=self.recipe.metric,
            tasks=[task.name for task in self.tasks],
            steps=self._steps(),
            examples=[(len(task.train), len(task.split(self.recipe.evaluation.split))) for task in self.tasks],
            dropped=[task.dropped for task in self.tasks],
            model=describe(self.loaded),
            memory={
                strategy.options.name: bytes_kept
                for strategy in self.strategies
                if (bytes_kept := strategy.memory(self.loaded.model, self.loaded.family, len(self.tasks)))
            },
        )


def prepare(recipe: Recipe, stages: Sequence[Path] = ()) -> Prepared:
    """Load the tasks, the model (as saved after the last of ``stages``, folders of tasks of a run) and the strategies.

    Raises:
        DataError, ModelError: something cannot be loaded.
        RecipeError: general ability cannot be measured, or the batch not divided, as it says.
        UsageError: a strategy does not support the model's family or cannot work with the model as its options say, or
            this machine does not support the precision.
    """
    if recipe.protocol != "zero_shot":
        check_training(recipe)
    torch.use_deterministic_algorithms(True, warn_only=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products on CUDA are repeatable only so
    general = General(recipe.general, recipe.evaluation.batch_size) if recipe.general else None
    tasks = load_tasks(recipe)
    loaded = load_learner(recipe, tasks, stages)
    loaded.family.collator(loaded.tokenizer, loaded.model)  # which refuses a tokenizer without what the objective needs
    if general is not None:
        general.check(loaded)
    strategies = []
    for options in recipe.strategies:
        strategy = load_strategy(options.name)
        if loaded.family.name not in strategy.families:
            raise UsageError(f"strategies.{options.name}: does not work with {loaded.family.name} models")
        strategies.append(strategy(options))
        try:
            strategies[-1].check(loaded.model, loaded.family, len(tasks))
        except StrategyError as error:  # before the run, an option is wrong, not the run
            raise UsageError(str(error)) from error
    if stages:
        load_strategies(strategies, stages[-1])
    return Prepared(recipe, tasks, loaded, strategies, general)


def load_learner(recipe: Recipe, tasks: Sequence[Task], stages: Sequence[Path] = ()) -> LoadedModel:
    """The model of a recipe, for its objective, as saved after the last of ``stages``.

    Args:
        tasks: all of the recipe's; a head has a row for each of their labels.

    Raises:
        ModelError: it cannot be loaded, or not used as the recipe says.
    """
    torch.manual_seed(recipe.seed)  # what is not pre-trained, an adapter's A or a head, is drawn while it is made
    labels = {task.name: task.labels for task in tasks if task.labels is not None}
    loaded = load_model(recipe.model, recipe.tuning, stages, recipe.objective, labels)
    if recipe.prompt.chat_template and not loaded.family.converses:
        raise ModelError(
            f"prompt.chat_template: {loaded.family.name} models have no turns of a user and an assistant; set it to "
            "false, or use a decoder that is tuned for conversations"
        )
    return loaded


@dataclass(frozen=True)
class Fitted:
    """What a stage's training took, all its attempts together; the seconds of those that were cut short left out."""

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
    recipe, loaded, strategies = prepared.recipe, prepared.loaded, prepared.strategies
    stage = prepared.stages[index]
    learned = prepared.learned(stage)
    loaded.family.see(prepared.seen(index))
    begin_task(loaded, recipe.tuning, stage.position, task_seed(recipe.seed, stage.position))
    state = processes()
    context = Context(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        family=loaded.family,
        task=learned[0] if len(learned) == 1 else _union(stage.name, learned),
        task_index=stage.position,
        seed=recipe.seed,
        collate=loaded.family.collator(loaded.tokenizer, loaded.model),
        process_index=state.process_index,
        num_processes=state.num_processes,
    )
    for strategy in strategies:
        strategy.before_task(context)
    own = prepared.examples(stage)
    context.examples = encode(loaded, own)
    dataset = own
    for strategy in strategies:
        dataset = strategy.training_data(context, dataset)
        if not len(dataset):
            raise StrategyError(f"strategies.{strategy.options.name}: it left no training data of '{stage.name}'")
    encoded = context.examples if dataset is own else encode(loaded, dataset)
    listener.task_started(stage.name, index, task_steps(recipe, stage.name, len(encoded)))
    with TemporaryDirectory(prefix="clkit-") as scratch:
        kept_in = run or RunFolder(Path(scratch))
        folder = CheckpointFolder(kept_in.stage_folder(index + 1, stage.name), kept_in.log.path)
        trainer = TaskTrainer(
            context=context,
            strategies=strategies,
            listener=_Logged(listener, run if state.is_main_process else None, stage.name),
            on_nan=recipe.training.on_nan,
            model=loaded.model,
            args=training_arguments(recipe, stage.name, stage.position, str(folder.partial)),
            train_dataset=encoded,
            data_collator=context.collate,
        )
        saving = CheckpointCallback(folder, recipe.saving, interruption, context, strategies, gone_on_from)
        trainer.add_callback(saving)
        for strategy in strategies:
            strategy.before_training(context)
        if gone_on_from is not None:
            context.step = gone_on_from.step
            context.pending.update(gone_on_from.pending)
            load_task_states(strategies, gone_on_from.folder)
            listener.resumed(gone_on_from.step)
        try:
            trainer.train(resume_from_checkpoint=str(gone_on_from.folder) if gone_on_from else None)
            state.wait_for_everyone()  # a slower process may still look for checkpoints there
        finally:
            folder.remove_partial()
    if trainer.state.global_step < trainer.state.max_steps:
        interruption.check(f"after step {trainer.state.global_step} of '{stage.name}'")
    trainer.refuse_broken_model()
    trainer.release_model()
    loaded.model.config.use_cache = True  # the Trainer turns it off for good, and it would be saved so
    for strategy in strategies:
        strategy.after_task(context)
    return Fitted(trainer.state.global_step, saving.seconds, saving.saving_seconds)


def _union(name: str, tasks: Sequence[Task]) -> Task:
    """Several tasks as one, which has neither an instruction nor labels of its own."""
    train, test = (concatenate_datasets([task.split(split) for task in tasks]) for split in ("train", "test"))
    return Task(name=name, group=name, instruction=None, labels=None, train=train, test=test)


class _Logged(Listener):
    """Passes on what is heard, and writes loss terms into the run's log."""

    def __init__(self, listener: Listener, folder: RunFolder | None, task: str) -> None:
        self._listener = listener
        self._folder = folder
        self._task = task

    def stepped(self, step: int) -> None:
        self._listener.stepped(step)

    def logged(self, terms: Mapping[str, float]) -> None:
        if self._folder is not None:
            self._folder.log.append({"event": "step", "task": self._task, **terms})
        self._listener.logged(terms)
