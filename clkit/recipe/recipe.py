"""The recipe: everything that decides a run's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from clkit.general.section import BUILTIN, GeneralSection
from clkit.models.objective import METRICS_OF, Objective, TextToText
from clkit.models.sections import FullTuning, ModelSection, Tuning
from clkit.recipe.loading import load
from clkit.results.kinds import UNBOUNDED, MetricName, Protocol
from clkit.section import NOT_THE_RESULT, Section
from clkit.strategies.registry import check_composition
from clkit.strategies.section import Strategies
from clkit.tasks.benchmarks import benchmark_tasks
from clkit.tasks.sections import BenchmarkSection, DataSection, Name, PromptSection, TaskRecipe
from clkit.tasks.source import SourceSection
from clkit.testing.section import EvaluationSection
from clkit.training.sections import ROW_OPTIMIZER, SavingSection, TrainingSection
from clkit.wording import did_you_mean

_READS_PLAIN_TEXT = "objective.kind: pretraining reads plain text; name its column with text"


class Recipe(Section):
    """A sequence of tasks, a model, how it is tuned, and the strategies that limit what it forgets."""

    name: Name = Field(description="Name of the recipe; the run folder is `runs/NAME-SEED`.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        42, description="Seed of what is drawn at random for training; `data.seed` draws what is tested."
    )
    model: ModelSection = Field(description="The model that learns.")
    benchmark: BenchmarkSection | None = Field(None, description="A named sequence of tasks; or use `tasks`.")
    tasks: list[TaskRecipe] | None = Field(
        None, min_length=1, description="Tasks of your own, in the order of learning; or use `benchmark`."
    )
    objective: Objective = Field(TextToText(), description="What the model learns from an example.")
    prompt: PromptSection = Field(PromptSection(), description="How an example becomes a prompt.")
    data: DataSection = Field(DataSection(), description="How much of each task's data is used.")
    tuning: Tuning = Field(FullTuning(), description="Which parameters are trained.")
    strategies: Strategies = Field(
        [], description="What limits forgetting; applied together, in this order. Empty: plain sequential tuning."
    )
    protocol: Protocol = Field(
        "sequential",
        description="How the tasks are learned: `sequential`, one after another; or as a baseline: `multi_task`, all "
        "together; `per_task`, each by a fresh copy of the model; `zero_shot`, none, only tested.",
    )
    training: TrainingSection = Field(TrainingSection(), description="How each task is trained.")
    evaluation: EvaluationSection = Field(EvaluationSection(), description="How and when the tasks are tested.")
    general: GeneralSection | None = Field(
        None, description="What is measured of the model's general ability, and when; null: nothing."
    )
    saving: Annotated[SavingSection, NOT_THE_RESULT] = Field(
        SavingSection(), description="What the run keeps. May differ on `--resume`."
    )

    @field_validator("objective", "tuning", mode="before")
    @classmethod
    def _choose_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        """`tuning: {freeze: [norms]}` says nothing of a method, and fits the one that is the default."""
        field = cls.model_fields[str(info.field_name)]
        choice, default = str(field.discriminator), field.default
        others = {key for option in get_args(field.annotation) for key in option.model_fields}
        if isinstance(value, Mapping) and not value.keys() & {choice, *(others - type(default).model_fields.keys())}:
            return {choice: getattr(default, choice), **value}
        return value

    @model_validator(mode="after")
    def _is_coherent(self) -> Recipe:
        problems = [
            InitErrorDetails(type=PydanticCustomError("incoherent", "{message}", {"message": message}), input=None)
            for message in self._contradictions()
        ]
        if problems:
            raise ValidationError.from_exception_data("Recipe", problems)
        return self

    def _contradictions(self) -> Iterator[str]:
        """What single sections cannot see; each message begins with the key that it is about, if there is one."""
        if (self.benchmark is None) == (self.tasks is None):
            yield "give exactly one of 'benchmark' and 'tasks'"
        else:
            yield from self._contradictions_of_tasks()
        micro = self.training.micro_batch_size
        if micro is not None and self.training.batch_size % micro:
            yield f"training.batch_size: {self.training.batch_size} is no multiple of training.micro_batch_size {micro}"
        if self.evaluation.split == "validation" and self.data.validation_share == 0:
            yield "evaluation.split: 'validation' needs data.validation_share above 0"
        if self.training.evaluate_every is not None and self.data.validation_share == 0:
            yield "training.evaluate_every: needs data.validation_share above 0"
        yield from self._contradictions_of_protocol()
        yield from self._contradictions_of_objective()
        trained = None if self.protocol == "zero_shot" else self.tuning
        yield from self.model.contradictions(trained, self.objective.kind)
        if self.general is not None:
            yield from self.general.contradictions(self.objective.kind, self.protocol)
        try:
            check_composition(self.strategies, self.tuning.method)
        except ValueError as error:
            yield str(error)

    def _contradictions_of_protocol(self) -> Iterator[str]:
        if self.protocol != "sequential" and self.strategies:
            yield (
                f"strategies: they limit forgetting, and with protocol: {self.protocol} nothing is learned "
                "after anything else that could be forgotten; write strategies: []"
            )
        own = [
            f"{name}.{key}"
            for name, task in self.training.per_task.items()
            for key in task.model_dump(exclude_none=True)
        ]
        if self.protocol == "multi_task" and own:
            yield (
                f"training.per_task.{own[0]}: protocol: multi_task trains on all tasks at once, so none has epochs "
                "or a learning rate of its own; set it to null"
            )
        if self.protocol == "per_task" and self.evaluation.tasks != "seen":
            yield (
                f"evaluation.tasks: '{self.evaluation.tasks}' does not fit protocol: per_task, which tests each model "
                "on the task that it learned; use 'seen'"
            )
        if self.protocol == "zero_shot" and not self.evaluation.zero_shot:
            yield "evaluation.zero_shot: protocol: zero_shot measures nothing else; set it to true"

    def _contradictions_of_objective(self) -> Iterator[str]:
        kind, fitting = self.objective.kind, METRICS_OF[self.objective.kind]
        if self.metric not in fitting:
            yield (
                f"evaluation.metric: '{self.metric}' does not fit objective.kind: {kind}; use one of: "
                f"{', '.join(fitting)}"
            )
        if kind == "pretraining":
            if self.prompt != PromptSection():
                yield "prompt: objective.kind: pretraining has no prompts; leave the section out"
            if self.data.train_per_label is not None:
                yield "data.train_per_label: objective.kind: pretraining reads no labels; use data.train_per_task"
        if kind != "text_to_text":
            yield from self._unused_of_evaluation(f"objective.kind: {kind}")
        elif self.metric in UNBOUNDED:
            yield from self._unused_of_evaluation(f"evaluation.metric: {self.metric}")
        if self.training.packing and 1 in (self.training.batch_size, self.training.micro_batch_size):
            yield "training.packing: has no effect with one example a micro-batch; set it to false, or raise that"
        if kind == "classification" and self.training.packing:
            yield "training.packing: a classifier reads one text a row; set it to false"
        if kind == "classification" and self.prompt.chat_template:
            yield "prompt.chat_template: classification has no turns of a user and an assistant; set it to false"
        if self.learns_all_turns and not self.prompt.chat_template:
            yield (
                "objective.loss_on: all_turns learns the assistant's turns of the tokenizer's chat template; set "
                "prompt.chat_template: true"
            )
        if self.prompt.task_name and self.prompt.style == "text":
            yield "prompt.task_name: these lines belong to prompt.style: paper; set it to false"

    @property
    def metric(self) -> MetricName:
        """What the matrix holds."""
        return self.evaluation.metric or METRICS_OF[self.objective.kind][0]

    def _contradictions_of_tasks(self) -> Iterator[str]:
        try:
            names = [task.name for task in self.task_recipes()]
        except ValueError as error:
            yield str(error)
            return
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            yield f"tasks: the name '{min(repeated)}' stands more than once; give each task its own"
        for name in self.training.per_task:
            if name not in names:
                known = ", ".join(names)
                yield f"training.per_task: no task named '{name}'{did_you_mean(name, names)} (tasks: {known})"
        yield from self._contradictions_of_answers()
        pretraining = self.objective.kind == "pretraining"
        unlabelled = [task.name for task in self.task_recipes() if pretraining or task.answers == "free"]
        for options in self.strategies:
            problems = options.contradictions(names, unlabelled)
            yield from (f"strategies.{options.name}.{problem}" for problem in problems)
            if options.by_rows is not None and (needed := self._needed_by_rows()):
                yield f"strategies.{options.name}.{options.by_rows} needs {needed}"
        yield from self._contradictions_of_further_data()

    def _needed_by_rows(self) -> str:
        """What keeps the optimizer from stepping single rows, as it would have to be; empty if nothing does."""
        if self.tuning.method != "full":
            return "tuning.method: full"
        if self.training.optimizer != ROW_OPTIMIZER:
            return f"training.optimizer: {ROW_OPTIMIZER}"
        return "training.compile: false" if self.training.compile else ""

    def _contradictions_of_further_data(self) -> Iterator[str]:
        for options in self.strategies:
            for key, data in options.further_data().items():
                at, source = f"strategies.{options.name}.{key}", data.source
                if self.objective.kind == "classification":
                    yield f"{at}: objective.kind: classification learns nothing but the tasks' labels; leave it out"
                if self.objective.kind == "pretraining" and source.holds_conversations:
                    yield f"{at}.source.messages: {_READS_PLAIN_TEXT}"
                measured = self.general.texts if self.general else None
                builtin = measured == BUILTIN and source.kind == "prose"
                if builtin or (measured is not None and measured in source.model_dump().values()):
                    yield (
                        f"{at}.source: general.texts measures what the model still knows on the same text, which it "
                        "would learn anew; take another for one of them"
                    )

    @property
    def learns_all_turns(self) -> bool:
        """Whether the loss is on all turns of the assistant's."""
        return self.objective.kind == "text_to_text" and self.objective.loss_on == "all_turns"

    def is_plain_text(self, source: SourceSection) -> bool:
        """Whether the texts of that source alone are learned, without answers."""
        return self.objective.kind == "pretraining" or source.unlabelled is not None

    def further_data(self) -> list[TaskRecipe]:
        """What strategies train on beside the tasks' data, as tasks."""
        return [
            data.as_task(options.name, key)
            for options in self.strategies
            for key, data in options.further_data().items()
        ]

    def _unused_of_evaluation(self, why: str) -> Iterator[str]:
        default = EvaluationSection()
        if self.evaluation.answer != default.answer:
            yield f"evaluation.answer: '{self.evaluation.answer}' has no effect with {why}; leave it out"
        if self.evaluation.max_new_tokens != default.max_new_tokens:
            yield f"evaluation.max_new_tokens: has no effect with {why}, where no text is written; leave it out"
        for key in ("normalise", "numbers"):
            if getattr(self.evaluation, key) != getattr(default, key):
                yield f"evaluation.{key}: has no effect with {why}, where no texts are compared; leave it out"

    def _contradictions_of_answers(self) -> Iterator[str]:
        kind = self.objective.kind
        free = next((task.name for task in self.task_recipes() if task.answers == "free"), None)
        if free is not None and self.data.train_per_label is not None and kind == "text_to_text":
            yield f"data.train_per_label: task '{free}' has none (answers: free); use data.train_per_task"
        way = self.evaluation.answer
        if kind == "text_to_text" and way != "generate" and all(task.answers == "free" for task in self.task_recipes()):
            yield f"evaluation.answer: '{way}' chooses among labels, and no task has any (answers: free); leave it out"
        if self.prompt.style == "text" and kind != "pretraining":
            for task in self.tasks or []:
                if task.instruction is not None:
                    yield (
                        f"tasks.{task.name}.instruction: has no place in prompt.style: text, which is the sentence "
                        "alone; remove it, or set prompt.style: paper"
                    )
        for key in ("max_answer_tokens", "max_conversation_tokens"):
            if getattr(self.prompt, key) is not None and free is None and not self.further_data():
                yield f"prompt.{key}: has no effect, since all answers are labels; leave it out, or set answers: free"
        if free is not None and kind == "classification":
            yield f"tasks.{free}.answers: 'free' does not fit objective.kind: classification, which chooses a label"
        if free is not None and self.metric == "macro_f1":
            yield f"evaluation.metric: macro_f1 is a mean over labels, and task '{free}' has none (answers: free)"
        for task in self.task_recipes():
            if kind != "pretraining" and task.source.unlabelled:
                yield (
                    f"tasks.{task.name}.source.{task.source.unlabelled}: plain text has no answers; use "
                    "objective.kind: pretraining, or name the column that holds them"
                )
            if kind == "pretraining" and task.source.holds_conversations:
                yield f"tasks.{task.name}.source.messages: {_READS_PLAIN_TEXT}"
            if task.source.untested:
                yield f"tasks.{task.name}.source.{task.source.untested}"

    @property
    def run_path(self) -> Path:
        """The run folder where none is named."""
        return Path("runs", f"{self.name}-{self.seed}")

    def task_recipes(self) -> list[TaskRecipe]:
        """The tasks in the order of learning, named benchmarks spelt out."""
        if self.benchmark is not None:
            return benchmark_tasks(self.benchmark.name, self.benchmark.order, self.benchmark.folder)
        return list(self.tasks or [])

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Load a recipe by path or shipped name, apply ``key=value`` overrides, and validate.

        Raises:
            UsageError: there is no such recipe.
            RecipeError: with one line per problem: file, line, key path, and what is allowed.
        """
        return load(cls, source, overrides)
