"""What learns: the model with its strategies, made ready from a recipe, and the training of one task."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets

from clkit.engine.devices import Device
from clkit.engine.fingerprints import Read, what_is_read
from clkit.engine.footprint import Taken
from clkit.engine.further import further_examples, further_tasks, weights
from clkit.engine.growing import Earlier
from clkit.engine.limits import checked_texts, spared
from clkit.engine.protocols import PlannedStage, lineage, planned_stages, tests_first
from clkit.errors import UsageError
from clkit.events import Footprint, Plan
from clkit.general.ability import General
from clkit.models.chain import chain_of
from clkit.models.examples import Texts, encode, refuse_unwritable_labels, without_unusable
from clkit.models.family import Family, LabelsOfTasks
from clkit.models.layers import refuse_untrainable
from clkit.models.loading import describe, load_model
from clkit.models.precision import is_rounded, slow_attention
from clkit.processes import processes
from clkit.recipe.fitting import fitting_strategies, refuse_unfit
from clkit.recipe.inputs import load_tasks, missing_trackers
from clkit.recipe.recipe import Recipe
from clkit.run.layout import ZERO_SHOT
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call
from clkit.tasks.stored import values
from clkit.tasks.task import Split, Task
from clkit.testing.section import EvaluationSection
from clkit.training.arguments import check_training, chosen_precision, task_steps
from clkit.training.state import kept_by, load_strategies
from clkit.wording import between, counts_by_name

#: Optimizer steps; a stage of fewer gets a remark.
FEW_STEPS = 10


@dataclass
class Prepared:
    """A recipe with everything it names loaded."""

    recipe: Recipe
    tasks: list[Task]
    family: Family
    strategies: list[Strategy]
    general: General | None
    read: Read
    stages: Sequence[PlannedStage]
    earlier: Earlier = field(default_factory=Earlier)
    of_data: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._examples: dict[str, Dataset] = {}
        told = (chain_of(self.recipe.model).remark, self.family.chat and self.family.chat.remark)
        self._remarks = [*(remark for remark in told if remark), *self.of_data]
        self._samples: list[tuple[str, str]] = []
        #: What each task is tested on.
        self.texts: dict[str, Texts] = {}
        finished = learned_before(self.stages, self.earlier)
        for task in self.tasks:
            shown = None
            if self.stages and task.train:
                learned = replace(task, train=task.train.select(range(1))) if task.name in finished else task
                shown = self._checked(learned, "train", tested=False)
                self._examples[task.name] = shown.examples
                if self.recipe.training.evaluate_every is not None and task.name not in finished:
                    self._checked(task, "validation", tested=False)
            self.texts[task.name] = self._checked(task, self.recipe.evaluation.split, tested=True)
            shown = shown or self.texts[task.name]
            first = shown.examples[0]
            self._samples.append((first["prompt"], first["answer"]))

    def _checked(self, task: Task, split: Split, *, tested: bool) -> Texts:
        texts, remarks = checked_texts(self.family, self.recipe, task, split, tested=tested)
        self._remarks += [remark for remark in remarks if remark not in self._remarks]
        return texts

    def renew(self) -> None:
        """Replace the model by a fresh copy of the pre-trained one, the same that `prepare` made."""
        del self.family  # two at once might not fit; reference cycles of the finished Trainer hold it until collected
        gc.collect()
        self.family = load_learner(self.recipe, labels_of(self.tasks))

    def learned(self, stage: PlannedStage) -> list[Task]:
        """The tasks that a stage learns."""
        return [task for task in self.tasks if task.name in stage.learned]

    def seen(self, index: int) -> list[str]:
        """The tasks that the model of stage ``index`` has learned, from 0; those of that stage last."""
        return [name for stage in self.stages[lineage(self.stages, index)] for name in stage.learned]

    def examples(self, stage: PlannedStage) -> Dataset:
        """What a stage learns, the tasks one after the other: columns `prompt`, `answer` and `task`."""
        return concatenate_datasets([self._examples[name] for name in stage.learned])

    def _steps(self) -> dict[str, int]:
        own = [self.earlier.finished.get(stage.name) or len(self.examples(stage)) for stage in self.stages]
        steps = {}
        for index, stage in enumerate(self.stages):
            so_far = own[lineage(self.stages, index)]
            replayed = sum(call(strategy, "replayed", so_far, gives=int) for strategy in self.strategies)
            steps[stage.name] = task_steps(self.recipe, stage.name, own[index] + replayed)
        return steps

    def _slow_attention(self) -> Iterator[str]:
        training, device = self.recipe.training, processes().device
        rounded = chosen_precision(training) == "bf16" or is_rounded(training.matmul, device)
        remark = slow_attention(self.family.model.config, device, rounded) if self.stages else None
        if remark is not None:
            yield remark

    def _rounded_merges(self) -> Iterator[str]:
        weights = str(self.family.base.dtype).removeprefix("torch.")
        if (
            self.recipe.tuning.method == "incremental_lora"
            and weights != "float32"
            and any(one.position for one in self.stages)
        ):
            yield (
                f"model.dtype: each finished task's adapter is merged into weights in {weights}, which round it by "
                "more the smaller it is beside them; in float32 nothing is lost"
            )

    def _remarks_of_strategies(self) -> Iterator[str]:
        for strategy in self.strategies:
            told = call(strategy, "remarks", self.family, len(self.tasks), gives=Iterable)
            yield from (f"{strategy.options.name}: {remark}" for remark in told)

    def _remarks_of_examples(self, to_come: Sequence[PlannedStage]) -> Iterator[str]:
        """What packing spares, and what part further data have in what is learned, of the first stage to come."""
        for stage in to_come[:1]:
            examples = self.examples(stage)
            yield from spared(self.recipe, self.family, examples)
            yield from weights(self.family, self.strategies, examples, stage.name)

    def _memory(self) -> dict[str, int]:
        """Bytes by strategy; none where no task follows that what is kept would serve."""
        if len(self.tasks) < 2:
            return {}
        found = {
            strategy.options.name: call(strategy, "memory", self.family, len(self.tasks), gives=int)
            for strategy in self.strategies
        }
        return {name: size for name, size in found.items() if size}

    def plan(self, device: Device | None = None) -> Plan:
        """What training is going to do, and where a device is given, what a step takes of it."""
        steps = self._steps()
        to_come = [stage for stage in self.stages if stage.name not in self.earlier.finished]
        return Plan(
            name=self.recipe.name,
            protocol=self.recipe.protocol,
            metric=self.recipe.metric,
            tasks=[task.name for task in self.tasks],
            steps=steps,
            examples=[(len(task.train) or None, len(task.split(self.recipe.evaluation.split))) for task in self.tasks],
            dropped=[task.dropped for task in self.tasks],
            model=describe(self.family),
            remarks=[
                *self._remarks,
                *left_out(self.tasks),
                *without_effect(self.recipe, self.tasks),
                *self._slow_attention(),
                *self._rounded_merges(),
                *few_steps({stage.name: steps[stage.name] for stage in to_come}),
                *self._remarks_of_examples(to_come),
                *self._remarks_of_strategies(),
            ],
            labels=[label_counts(task) for task in self.tasks],
            samples=self._samples,
            memory=self._memory(),
            tested=self._tested(),
            measured=self._measured(),
            finished=[*self.earlier.finished],
            new=self.earlier.new,
            brought=self._brought(),
            footprint=self._footprint(device, to_come) if device and to_come else None,
        )

    def _footprint(self, device: Device, to_come: Sequence[PlannedStage]) -> Footprint:
        """What a step takes, from the examples with the longest texts and from the first ones."""
        examples = concatenate_datasets([self.examples(stage) for stage in to_come])
        count = min(self.recipe.training.batch_size, len(examples))
        texts = zip(values(examples, "prompt"), values(examples, "answer"), strict=True)
        sizes = ((len(prompt) + len(answer), -index) for index, (prompt, answer) in enumerate(texts))
        longest = encode(self.family, examples, [-index for _, index in nlargest(count, sizes)])
        rows = sorted(longest, key=lambda row: len(row["input_ids"]), reverse=True)
        places, usual = [stage.position for stage in to_come], [*encode(self.family, examples, range(count))]
        return Taken(self.family, self.strategies, places, rows, usual, device).footprint(self.recipe)

    def _tested(self) -> dict[str, int]:
        """Test examples after each stage, the zero-shot evaluation first where there is one."""
        sizes = {task.name: len(task.split(self.recipe.evaluation.split)) for task in self.tasks}
        first = {ZERO_SHOT: sum(sizes.values()) * self.recipe.evaluation.zero_shot} if tests_first(self.recipe) else {}
        return first | {stage.name: sum(sizes[name] for name in stage.tested) for stage in self.stages}

    def _measured(self) -> list[str]:
        """The stages after which general ability is measured."""
        if self.general is None:
            return []
        names = [ZERO_SHOT, *(stage.name for stage in self.stages)]
        return [name for place, name in enumerate(names) if self.general.is_due(place, len(self.stages))]

    def _brought(self) -> dict[str, str]:
        """What each strategy has kept, in words, where the run goes on from what it learned."""
        if not self.earlier.loaded:
            return {}
        return {strategy.options.name: kept_by(strategy) for strategy in self.strategies}


def label_counts(task: Task) -> dict[str, int | None]:
    """Training examples of each label of a task, in the order of the prompt; None where its training data are gone."""
    counts = Counter(values(task.train, "answer") if task.labels else ())
    return {label: counts[label] if task.train else None for label in task.labels or ()}


def without_effect(recipe: Recipe, tasks: Sequence[Task]) -> Iterator[str]:
    """A remark on settings that change nothing, with these tasks or here, or more than one may think.

    Most that change nothing are refused with the recipe.
    """
    asked = recipe.evaluation.max_new_tokens
    writes = recipe.objective.kind == "text_to_text" and all(task.labels is not None for task in tasks)
    if writes and asked != EvaluationSection().max_new_tokens:
        yield "evaluation.max_new_tokens: has no effect, since each answer may be as long as its task's longest label"
    if recipe.evaluation.split == "test" and recipe.training.evaluate_every is None:
        aside = sum(len(task.validation) for task in tasks if task.validation is not None)
        if aside:
            yield f"data.validation_share: {aside:,} training rows are set aside, and nothing is tested on them"
    if recipe.evaluation.split == "validation" and recipe.training.keep == "best":
        yield "training.keep: best chooses by the split that is tested on (evaluation.split), so scores are flattering"
    if recipe.training.precision == "auto":
        yield f"training.precision: auto is {chosen_precision(recipe.training)} on this machine"
    matmul, device = recipe.training.matmul, processes().device
    if matmul != "highest" and not is_rounded(matmul, device):
        yield f"training.matmul: '{matmul}' has no effect on this machine ({device.type})"


def left_out(tasks: Sequence[Task], split: str = "") -> Iterator[str]:
    """A remark on each task of which rows were left out, of one split or of any."""
    for task in tasks:
        if rows := counts_by_name({name: count for name, count in task.dropped.items() if name.endswith(split)}):
            yield f"{task.name}: rows left out, without a gold label unless said otherwise: {rows}"


def few_steps(steps: Mapping[str, int]) -> Iterator[str]:
    """A remark on the stages whose optimizer steps are too few to learn anything."""
    few = {name: count for name, count in steps.items() if count < FEW_STEPS}
    if few:
        whose = ", ".join(few) if len(few) <= 4 else f"{len(few)} of {len(steps)} tasks"
        yield (
            f"{whose}: too few optimizer steps to learn much ({between(few.values())}); more training.epochs, more "
            "rows or a smaller training.batch_size make more"
        )


def prepare(recipe: Recipe, earlier: Earlier | None = None, *, shapes_only: bool = False) -> Prepared:
    """Load the tasks, the model and the strategies, as they were when the run stopped that is gone on with.

    Args:
        shapes_only: load no weights, for a plan of another machine; what only they or this one show is not checked.

    Raises:
        DataError, ModelError: something cannot be loaded.
        RecipeError: general ability cannot be measured, or the batch not divided, as it says.
        UsageError: a strategy does not support the model's family or cannot work with the model as its options say, or
            this machine does not support the precision.
    """
    earlier = earlier or Earlier()
    for problem in missing_trackers(recipe.training.report_to):
        raise UsageError(problem)
    if recipe.protocol != "zero_shot" and not shapes_only:
        check_training(recipe)
    general = General(recipe.general, recipe.evaluation.batch_size) if recipe.general else None
    stages = planned_stages(recipe)
    finished = learned_before(stages, earlier)
    tasks = load_tasks(recipe, {name: earlier.read.get(f"tasks.{name}.labels") for name in finished})
    family = load_learner(recipe, labels_of(tasks), earlier.loaded, shapes_only=shapes_only)
    further = further_tasks(recipe)
    # When a model of the hub is on this machine, and before rows are left out.
    read = what_is_read(recipe, tasks, further, earlier.read)
    told = [f"task '{one.name}': its training data are gone; it is only tested" for one in tasks if not one.train]
    tasks = [without_unusable(task, family, recipe) for task in tasks]
    refuse_unfit(recipe, family, weights=not shapes_only)
    for task in tasks:
        if recipe.objective.kind == "text_to_text":
            refuse_unwritable_labels(family, task, recipe.evaluation.comparison)
    if not shapes_only and recipe.protocol != "zero_shot":
        refuse_untrainable(family)
    data, remarks = further_examples(recipe, further, family)
    strategies = fitting_strategies(recipe, family, data, len(tasks), weights=not shapes_only)
    if earlier.loaded:
        load_strategies(strategies, earlier.loaded[-1])
    return Prepared(recipe, tasks, family, strategies, general, read, stages, earlier, [*told, *remarks])


def learned_before(stages: Sequence[PlannedStage], earlier: Earlier) -> set[str]:
    """The tasks that the run which is gone on with has learned."""
    return {name for stage in stages if earlier.finished.get(stage.name) for name in stage.learned}


def labels_of(tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """The labels of the tasks that have any."""
    return {task.name: task.labels for task in tasks if task.labels is not None}


def load_learner(
    recipe: Recipe, labels: LabelsOfTasks, stages: Sequence[Path] = (), *, shapes_only: bool = False
) -> Family:
    """The model of a recipe, for its objective, as saved after the last of ``stages``.

    Args:
        labels: of all tasks of the recipe; a head has a row for each of them.
        shapes_only: without weights.

    Raises:
        ModelError: it cannot be loaded, or not used as the recipe says.
    """
    torch.manual_seed(recipe.seed)  # what is not pre-trained, an adapter's A or a head, is drawn while it is made
    family = load_model(recipe.model, recipe.tuning, stages, recipe.objective, labels, shapes_only=shapes_only)
    family.converse(recipe.prompt.chat_template)
    return family
