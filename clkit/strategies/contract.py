"""The strategy contract: typed hooks around one training loop that the engine owns, and a state to save.

A strategy is one class in one file, its options model beside it::

    class Freeze(Strategy):
        \"\"\"Train the first task only.\"\"\"

        name = "freeze"
        Options = FreezeOptions

        def before_step(self, context):
            if context.task_index > 0:
                for parameter in context.model.parameters():
                    parameter.grad = None

A run may be killed at any moment and gone on with later, to the last bit. Between tasks, `state_dict` carries all that
a strategy knows. A task that was interrupted goes on like this, in a new process:

1. `load_state_dict` with the state from before the task, then `before_task`, `training_data` and `before_training`, all
   with the weights and data that they had the first time; so they must do the same again: draw at random only from a
   generator seeded by `context.seed`, `context.task_index` and a purpose.
2. The trainable parameters, optimizer, schedule and random number generators are those of the checkpoint, and
   `context.step` is its step. Whatever else a strategy has gathered from step to step is its `task_state_dict`.
3. The next step. What a strategy derives from the weights before the task it must therefore take in `before_task` or
   `before_training`, not in the first step that it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from clkit.lazy import LazyModule
from clkit.strategies.options import StrategyOptions

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from clkit.models.family import Family
    from clkit.models.rows import RowGradient
    from clkit.tasks.task import Task
else:
    torch = LazyModule("torch")

ALL_FAMILIES = frozenset({"seq2seq", "decoder", "encoder"})
ALL_TUNINGS = frozenset({"full", "lora", "incremental_lora"})
#: What a line of the log holds of every step, whatever the strategies.
TASK_LOSS, SKIPPED = "task_loss", "skipped_steps"
RESERVED = frozenset({"event", "task", "step", "learning_rate", "grad_norm", TASK_LOSS, SKIPPED})


@dataclass(frozen=True)
class Steps:
    """How a run makes its optimizer steps, for strategies that can save work by knowing it.

    Attributes:
        micro_batches: forward passes of one step, on each process.
        processes: how many reduce their gradients in each step.
        compiled: whether forward and backward pass are compiled, each as a whole.
        fused: whether kernels of Liger's stand for some of the model's modules.
        whole_gradients: why each gradient must be whole; empty where `Context.row_gradients` may stand for some.
    """

    micro_batches: int
    processes: int
    whole_gradients: str = ""
    compiled: bool = False
    fused: bool = False

    @property
    def late(self) -> str:
        """Why what is chosen by a step's outputs is known only behind its backward pass; empty where before."""
        if self.micro_batches > 1:
            return "rows are known after the step's last micro-batch"
        return "the backward pass is compiled before rows are known" if self.compiled else ""


def _no_collator(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    raise NotImplementedError("this context was made without a collator")


@dataclass
class Context:
    """What a strategy may know and touch while one task is learned.

    Attributes:
        family: the model in training and its tokenizer, with what is particular to them.
        step: optimizer steps finished on this task, those before an interruption included.
        examples: the task's own training data as the model reads it, before any strategy's `training_data`; None
            until `training_data` is called. ``collate([examples[3], examples[7]])`` makes a batch of two, on the CPU.
        process_index, num_processes: which of how many processes this is; each sees its own share of every batch.
        sum_over_processes: adds a tensor, on the process's device, over all processes; in every hook.
        row_gradients: of parameters whose `grad` is None in this step, the gradient of some rows; given in
            `before_step`, where the strategy's `steps` allow it.
        pending: each logged value since the last line of the log, by name. For the engine, which keeps it in
            checkpoints.
    """

    family: Family
    task: Task
    task_index: int
    seed: int
    step: int = 0
    examples: Dataset | None = None
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]] = _no_collator
    process_index: int = 0
    num_processes: int = 1
    sum_over_processes: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
    row_gradients: dict[torch.nn.Parameter, RowGradient] = field(default_factory=dict)
    pending: dict[str, list[float | torch.Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The model in training, with its adapters, without any distributed wrapper."""
        return self.family.model

    def log(self, **terms: float | torch.Tensor) -> None:
        """Add named values to the next line of the log and to the live display, as means since the line before.

        A tensor of one number is read when the line is written: reading it at once would wait for the accelerator.

        Raises:
            ValueError: a name is one under which the engine logs.
        """
        for name, value in terms.items():
            if name in RESERVED:
                raise ValueError(f"context.log: the engine logs '{name}' itself; choose another name")
            self.record(name, value)

    def record(self, name: str, value: float | torch.Tensor) -> None:
        """`log`, with any name. For the engine."""
        kept = value.detach().reshape(()).clone() if isinstance(value, torch.Tensor) else float(value)
        self.pending.setdefault(name, []).append(kept)

    def read_pending(self) -> dict[str, list[float]]:
        """`pending` as numbers. For the engine."""
        return {name: [float(value) for value in values] for name, values in self.pending.items()}

    def take_terms(self) -> dict[str, float]:
        """The mean of each logged value since this was called last. For the engine."""
        means = {name: sum(values) / len(values) for name, values in self.read_pending().items() if values}
        self.pending.clear()
        return means


class Strategy:
    """One way to limit forgetting. Override the hooks it needs; every other hook does nothing.

    Class attributes say what it works with, so that a recipe that cannot work is refused: ``tunings`` that it supports,
    ``conflicts`` and ``requires``, other strategies with the reason, before a model is loaded; ``families``, which
    follow from the model, before anything is trained.
    """

    name: ClassVar[str]
    Options: ClassVar[type[StrategyOptions]] = StrategyOptions
    tunings: ClassVar[frozenset[str]] = ALL_TUNINGS
    families: ClassVar[frozenset[str]] = ALL_FAMILIES
    conflicts: ClassVar[Mapping[str, str]] = {}
    requires: ClassVar[Mapping[str, str]] = {}
    #: Set by the engine before `check`; unknown without it.
    steps: Steps | None = None
    #: Set by the engine before `check`: what the options' `further_data` names, as `training_data` has examples. The
    #: prompt is null where a row is plain text beside tasks that are none.
    data: Mapping[str, Dataset] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute in vars(cls):
            if attribute.startswith(("before_", "after_", "on_")) and not hasattr(Strategy, attribute):
                hooks = [hook for hook in vars(Strategy) if hook.startswith(("before_", "after_"))]
                raise TypeError(f"{cls.__name__}.{attribute} is no hook of Strategy (hooks: {', '.join(hooks)})")

    def __init__(self, options: StrategyOptions) -> None:
        self.options = options

    @classmethod
    def checks_model(cls) -> bool:
        """Whether it does not work with every model."""
        return cls.check is not Strategy.check or cls.families != ALL_FAMILIES

    def check(self, family: Family, tasks: int) -> None:
        """Refuse, before anything is trained, a model that this strategy cannot work with as its options say.

        Args:
            family: its model has its adapters, and `requires_grad` as it will be in training.
            tasks: how many will be learned.

        Raises:
            ClkitError: with the option to change.
        """

    def before_task(self, context: Context) -> None:
        """The task's data is ready; the optimizer is not yet built."""

    def replayed(self, examples: Sequence[int]) -> int:
        """How many examples `training_data` adds to a task's own, so that its steps can be told before the run.

        Args:
            examples: how many of its own each task has, up to the one in training, which is the last.
        """
        return 0

    def training_data(self, context: Context, dataset: Dataset) -> Dataset:
        """What is trained on (columns `prompt`, `answer`, `task`), from what the strategy before it in the list gave.

        The first one is given the task's own training data.
        """
        return dataset

    def before_training(self, context: Context) -> None:
        """Every strategy's `before_task` is done and the model on its device; its weights are those before the task."""

    def before_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        """Before each micro-batch's forward pass. One's own belongs in `batch_loss`: here, others watch it."""

    def after_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        """After each micro-batch's forward pass, before its backward pass."""

    def batch_loss(
        self, context: Context, batch: Mapping[str, torch.Tensor], outputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """A term of this micro-batch's loss, which needs its data; every `after_forward` was called before.

        Summed, not averaged, over the batch's answer tokens: the engine divides by those of the whole optimizer step,
        as it does with the task's loss. A forward pass of one's own must not leave a graph to the model's buffers.

        Args:
            outputs: what the model gave, with `logits`: batch × sequence × vocabulary.
        """
        return None

    def penalty(self, context: Context) -> torch.Tensor | None:
        """A term added to the loss, once per optimizer step. Scalar, with a graph to the trainable parameters.

        Every process adds its own, so it must be the same in all of them; their weights would drift apart.
        """
        return None

    def before_step(self, context: Context) -> None:
        """Gradients are complete (accumulated, summed over processes, not yet clipped); the optimizer steps next.

        This is the place to read and change them. A hook on a parameter would see those of single micro-batches.
        """

    def after_step(self, context: Context) -> None:
        """The optimizer has stepped, or left out a step that was not finite (`on_nan: skip`, `precision: fp16`)."""

    def after_task(self, context: Context) -> None:
        """The task is learned; the model is not yet evaluated or saved.

        It has the weights that are kept: with `training.keep: best`, those of an earlier step. `context.step` and what
        was gathered from step to step are of all steps.
        """

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        """What the user should know of what it does to this model, or cannot do; shown before the run, a line each."""
        yield from ()

    def memory(self, family: Family, tasks: int) -> int:
        """Bytes that the strategy keeps beside the model at the end of that many tasks; shown before the run."""
        return 0

    def still(self, family: Family, task_index: int) -> tuple[int, int]:
        """How many trained numbers have no gradient of their own in a step of that task, and how many the optimizer
        keeps no moments of; for the memory that is shown before the run.
        """
        return 0, 0

    def kept(self) -> str:
        """What its state holds of the tasks learned so far, in a few words; shown when a run goes on."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What must survive between tasks: tensors and plain JSON values, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            KeyError: the state holds a name that this strategy does not know.
        """
        if state:
            raise KeyError(f"{self.name} has no state, but was given {sorted(state)}")

    def forget_data(self, values: dict[str, Any], task: str) -> dict[str, Any]:
        """The plain JSON values of a saved `state_dict` without the texts of a task's data (`clkit forget-data`).

        Whoever keeps texts of the data must take them out here, and go on without them. Nothing was given back to this
        object before. Where the task has left nothing, the values stay as they are.
        """
        return values

    def task_state_dict(self) -> dict[str, Any]:
        """What was gathered inside the task, from step to step; the same kinds of values as in `state_dict`.

        Called between two steps. Under several processes that of the first is kept, and given to all of them.
        """
        return {}

    def load_task_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `load_state_dict`, of what `task_state_dict` gave; after `before_training` and before the next step."""
        if state:
            raise KeyError(f"{self.name} has no state inside a task, but was given {sorted(state)}")
