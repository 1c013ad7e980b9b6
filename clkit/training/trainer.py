"""One task's training: the Hugging Face Trainer, with the strategies' hooks at their places in its step.

What is used of transformers' private names, since it has no public ones for the purpose:

- `Trainer._get_train_sampler`: its own order by length is drawn from the global generator (`GroupedByLength`).
- `Trainer._clip_grad_norm`, `Trainer._get_grad_norm`: their own norm leaves out the gradients of chosen rows.
- `Trainer._load_from_checkpoint`: its own takes a checkpoint with other parameters, with a warning.
- `Trainer._loss_shifts_labels`: whether it leaves out the labels' first column when it counts them.
- `model._original_forward`, `model._is_accelerate_prepared`: what accelerate leaves on a model.
- `TrainingArguments._n_gpu` (in `arguments`): one process would copy the model to every GPU that it sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import clip_grad_norm_
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from clkit.errors import ClkitError, RunError, StrategyError, UsageError
from clkit.events import Listener
from clkit.models.layers import trained_parameters
from clkit.models.packed import forward_inputs
from clkit.models.precision import matrix_products
from clkit.strategies.contract import SKIPPED, TASK_LOSS, Context, Strategy
from clkit.strategies.hooks import call, call_all
from clkit.tasks.stored import token_counts
from clkit.training.grouping import GroupedByLength, SortedWithinSteps
from clkit.training.loss import answer_tokens, token_mean_loss
from clkit.training.row_adamw import RowAdamW
from clkit.training.sections import ROW_OPTIMIZER

#: What accelerate leaves on a model, among it its mixed precision around `forward`.
LEFT = ("forward", "_original_forward", "_is_accelerate_prepared")

SUPPORTED = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def _refuse_lost(strategy: Strategy, what: str, term: Any) -> None:
    """Refuse a term of the loss that would be logged and change nothing."""
    if not isinstance(term, torch.Tensor) or term.dim() or not term.requires_grad:
        raise _lost(strategy, what)


def _lost(strategy: Strategy, what: str) -> StrategyError:
    return StrategyError(
        f"strategies.{strategy.options.name}: its {what} must be a scalar that trained parameters take part in; return "
        "None where there is nothing to add"
    )


def _are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    finite = [tensor.isfinite().all() for tensor in tensors]
    return not finite or bool(torch.stack(finite).all())  # one number is read off the accelerator, not one per tensor


def _taken_off(model: nn.Module) -> dict[str, Any]:
    """What accelerate left on a model, by name; it is there no more."""
    return {name: vars(model).pop(name) for name in LEFT if name in vars(model)}


@contextmanager
def as_tested(model: nn.Module) -> Iterator[None]:
    """Inside, a model in training computes as it will when it is tested: without mixed precision."""
    taken = _taken_off(model)
    try:
        yield
    finally:
        vars(model).update(taken)


class TaskTrainer(Trainer):
    """A Trainer that calls the strategies' hooks. Strategies never see it.

    A checkpoint of it holds the parameters in training only: the others are those that the task began with.

    Raises:
        UsageError: on creation, under an engine that hides gradients from the hooks (DeepSpeed, FSDP).
        ClkitError: in training, where the loss is not finite and ``on_nan`` is `stop`.
    """

    def __init__(
        self,
        *,
        context: Context,
        strategies: Sequence[Strategy],
        listener: Listener,
        on_nan: Literal["stop", "skip"] = "stop",
        matmul: str = "highest",
        **arguments: Any,
    ) -> None:
        self._caches = getattr(arguments["model"].config, "use_cache", None)
        super().__init__(compute_loss_func=self._loss, **arguments)
        if self.accelerator.distributed_type not in SUPPORTED:
            raise UsageError(
                f"strategies need whole gradients, which {self.accelerator.distributed_type.value} does not show; "
                "use plain data parallelism: `accelerate launch --multi_gpu`"
            )
        # The Trainer would not count labels in the first column, which a causal language model's own loss leaves out;
        # those of a family belong to the logits as they stand.
        self._loss_shifts_labels = False
        self._context = context
        self._strategies = strategies
        self._listener = listener
        self._on_nan = on_nan
        self._matmul = matmul
        self._batch: dict[str, torch.Tensor] = {}
        self._batch_losses: dict[str, torch.Tensor] = {}
        # The task's loss of each micro-batch of this step, and of each step since it was last read: reading a number
        # waits for the accelerator, so it is not done in every step.
        self._micro_losses: list[torch.Tensor] = []
        self._step_losses: list[torch.Tensor] = []
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reports(context, strategies, listener))

    def release_model(self) -> None:
        """Take off the model what training left on it, so that it is tested as it will be when it is loaded again.

        That is what accelerate leaves (`LEFT`), and the Trainer's hooks on the embeddings, new ones with every task.
        The optimizer's moments go too: what strategies compute after a task would stand beside them.
        """
        self.optimizer.state.clear()
        if self.args.torch_compile:
            torch.compiler.reset()
        _taken_off(self.model)
        if self.args.gradient_checkpointing:
            self.model.activation_checkpointing_disable()
            self.model.disable_input_require_grads()
        config = self.model.config
        if self._caches is not None:
            config.use_cache = self._caches  # the Trainer turns it off for good, and it would be saved so
        else:
            vars(config).pop("use_cache", None)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if not grouped and self.args.gradient_accumulation_steps == 1:
            return super()._get_train_sampler(train_dataset)
        tokens = token_counts(self.train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        steps = math.ceil(len(tokens) / batch)
        kind = GroupedByLength if grouped else SortedWithinSteps
        return kind(tokens, batch, self.args.data_seed, epoch=lambda: self.state.global_step // steps)

    # --- the step -------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._batch = dict(inputs)  # the Trainer takes the labels out of its own
        call_all(self._strategies, "before_forward", self._context, self._batch)
        inputs = {**forward_inputs(inputs), "labels": inputs["labels"]}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        call_all(self._strategies, "after_forward", self._context, self._batch)
        logits = self._context.family.logits(outputs, labels)
        loss = token_mean_loss(logits, labels, num_items_in_batch, self.args.label_smoothing_factor)
        self._micro_losses.append(loss.detach().clone())  # which the Trainer scales in place with several processes
        for strategy in self._strategies:
            own = call(strategy, "batch_loss", self._context, self._batch, outputs)
            if own is not None:
                _refuse_lost(strategy, "batch_loss", own)
                own = own / answer_tokens(labels, num_items_in_batch)
                name = f"{strategy.name}_loss"
                self._batch_losses[name] = self._batch_losses.get(name, torch.zeros_like(own)) + own.detach()
                loss = loss + own
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        with matrix_products(self._matmul):  # not around what strategies do to gradients and weights
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            self._step_losses.append(torch.stack(self._micro_losses).sum())
            self._micro_losses.clear()
            for name, value in self._batch_losses.items():
                self._context.record(name, self._context.sum_over_processes(value))
            self._batch_losses.clear()
            self.accelerator.unscale_gradients()  # fp16's scale is none of the strategies' business
            self._add_penalties()
            call_all(self._strategies, "before_step", self._context)
            if self._on_nan == "skip" and not _are_finite(one.grad for one in self._with_gradients()):
                self._skip_step()
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.args.optim == ROW_OPTIMIZER:
            _, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer_cls_and_kwargs = (RowAdamW, {**options, "rows": self._context.row_gradients})
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def _with_gradients(self) -> list[Any]:
        """Whatever has a `grad` in this step: parameters, and the chosen rows of others."""
        parameters = trained_parameters(self.model).values()
        return [*(one for one in parameters if one.grad is not None), *self._context.row_gradients.values()]

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # Not accelerate's, which would take fp16's scale off a second time.
        return clip_grad_norm_(self._with_gradients(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # it is not clipped
            grad_norm = clip_grad_norm_(self._with_gradients(), math.inf)
        return grad_norm

    def _add_penalties(self) -> None:
        # Straight into .grad, after the reduction over processes: each process computes the same penalty, and a
        # second backward pass must not start another reduction.
        for strategy in self._strategies:
            penalty = call(strategy, "penalty", self._context)
            if penalty is None:
                continue
            _refuse_lost(strategy, "penalty", penalty)
            trained = list(trained_parameters(self.model).values())
            gradients = torch.autograd.grad(penalty, trained, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                raise _lost(strategy, "penalty")
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            self._context.record(f"{strategy.name}_penalty", penalty)

    def _skip_step(self) -> None:
        """Make this step's update nothing, and forget what was logged of it and is not finite."""
        for parameter in trained_parameters(self.model).values():
            parameter.grad = None
        self._context.row_gradients.clear()
        self._step_losses.pop()
        for values in self._context.pending.values():
            if values and not math.isfinite(values[-1]):
                values.pop()
        self._context.record(SKIPPED, 1.0)

    # --- the log --------------------------------------------------------------------------------------------------

    def _read_losses(self) -> None:
        """Put the steps' losses where all pending terms are, and where a checkpoint keeps them."""
        if self._step_losses:
            losses = self._context.sum_over_processes(torch.stack(self._step_losses))
            self._step_losses.clear()
            for loss in losses.tolist():
                self._context.record(TASK_LOSS, loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means of all terms since the line before; the Trainer's own mean would not survive a checkpoint."""
        if "loss" not in logs:  # the summary at the end of training
            return
        self._read_losses()
        skipped = len(self._context.pending.pop(SKIPPED, []))
        terms = self._context.take_terms()
        if TASK_LOSS in terms or not skipped:
            self._refuse_broken(sum(value for name, value in terms.items() if name.endswith(("_loss", "_penalty"))))
        line = {
            "step": self.state.global_step,
            TASK_LOSS: terms.pop(TASK_LOSS, math.nan),
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
        }
        self._listener.logged({**line, **terms, **({SKIPPED: skipped} if skipped else {})})

    def _refuse_broken(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ClkitError(
                f"the loss of task '{self._context.task.name}' is {loss} at step {self.state.global_step}; lower "
                "training.learning_rate or use precision: fp32, in another folder (--run DIR), or go on with "
                "training.on_nan=skip --resume, which leaves out such steps. What was saved before is kept"
            )

    def refuse_broken_model(self) -> None:
        """Refuse to go on from weights, or to keep them, after a step whose loss or gradient was not finite.

        Raises:
            ClkitError: a loss since the last line of the log, or a parameter in training, is not finite.
        """
        self._read_losses()
        self._refuse_broken(sum(self._context.read_pending().get(TASK_LOSS, [])))
        if not _are_finite(trained_parameters(self.model).values()):
            self._refuse_broken(math.nan)  # the next step's will be

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the parameters in training; called by the Trainer for each checkpoint, on every process.

        Raises:
            ClkitError: one of them is not finite, so that nothing good can go on from here.
        """
        assert output_dir is not None
        self.refuse_broken_model()
        tensors = {
            name: parameter.detach().contiguous().cpu() for name, parameter in trained_parameters(self.model).items()
        }
        if self.args.should_save:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Called by the Trainer. Its own would take a checkpoint that lacks parameters, or has others, with a warning.
        trained = trained_parameters(self.model)
        tensors = load_file(Path(resume_from_checkpoint, SAFE_WEIGHTS_NAME))
        if tensors.keys() != trained.keys():
            different = ", ".join(sorted(tensors.keys() ^ trained.keys())[:3])
            raise RunError(
                f"{resume_from_checkpoint} holds other parameters than are in training ({different}, ...): "
                "remove this folder to train the task anew"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[name])


class _Reports(TrainerCallback):
    """Passes the Trainer's events on to the strategies and the listener."""

    def __init__(self, context: Context, strategies: Sequence[Strategy], listener: Listener) -> None:
        self._context = context
        self._strategies = strategies
        self._listener = listener

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        call_all(self._strategies, "after_step", self._context)
        self._context.step += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._listener.stepped(state.global_step)
