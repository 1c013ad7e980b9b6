"""One task's training: the Hugging Face Trainer, with the strategies' hooks at their places in its step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from clkit.engine.events import Listener
from clkit.errors import ClkitError, UsageError
from clkit.models.likelihood import IGNORED, summed_cross_entropy
from clkit.strategies.base import Context, Strategy

SUPPORTED = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def token_mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy summed over answer tokens and divided by their number in the *whole* optimizer step.

    So the gradient does not depend on how a batch is split into micro-batches and processes. T5's own loss is a mean
    over one micro-batch, which the Trainer would add up without dividing.

    Args:
        labels: batch × sequence, -100 where no loss is due.
        num_items_in_batch: answer tokens of the step, over all micro-batches and processes.
    """
    return summed_cross_entropy(outputs["logits"], labels) / _tokens(labels, num_items_in_batch)


def _tokens(labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
    return num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()


class TaskTrainer(Trainer):
    """A Trainer that calls the strategies' hooks. Strategies never see it.

    Raises:
        UsageError: on creation, under an engine that hides gradients from the hooks (DeepSpeed, FSDP).
    """

    def __init__(
        self, *, context: Context, strategies: Sequence[Strategy], listener: Listener, **arguments: Any
    ) -> None:
        super().__init__(compute_loss_func=self._loss, **arguments)
        if self.accelerator.distributed_type not in SUPPORTED:
            raise UsageError(
                f"strategies need whole gradients, which {self.accelerator.distributed_type.value} does not show; "
                "use plain data parallelism: `accelerate launch --multi_gpu`"
            )
        self._context = context
        self._strategies = strategies
        self._batch: dict[str, torch.Tensor] = {}
        self._batch_losses: dict[str, torch.Tensor] = {}
        context.sum_over_processes = lambda tensor: self.accelerator.reduce(tensor, reduction="sum")
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reports(context, strategies, listener))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._batch = dict(inputs)  # the Trainer takes the labels out of its own
        for strategy in self._strategies:
            strategy.before_forward(self._context, self._batch)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        for strategy in self._strategies:
            strategy.after_forward(self._context, self._batch)
        loss = token_mean_loss(outputs, labels, num_items_in_batch)
        for strategy in self._strategies:
            own = strategy.batch_loss(self._context, self._batch, outputs)
            if own is not None:
                own = own / _tokens(labels, num_items_in_batch)
                name = f"{strategy.name}_loss"
                self._batch_losses[name] = self._batch_losses.get(name, torch.zeros_like(own)) + own.detach()
                loss = loss + own
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            for name, value in self._batch_losses.items():
                self._context.log(**{name: float(self._context.sum_over_processes(value))})
            self._batch_losses.clear()
            self._add_penalties()
            for strategy in self._strategies:
                strategy.before_step(self._context)
        return loss

    def _add_penalties(self) -> None:
        # Straight into .grad, after the reduction over processes: each process computes the same penalty, and a
        # second backward pass must not start another reduction.
        for strategy in self._strategies:
            penalty = strategy.penalty(self._context)
            if penalty is None:
                continue
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            scaler = self.accelerator.scaler
            scale = scaler.get_scale() if scaler is not None else 1.0
            gradients = torch.autograd.grad(penalty * scale, trained, allow_unused=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None and parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None and parameter.grad is not None:
                    parameter.grad += gradient
            self._context.log(**{f"{strategy.name}_penalty": float(penalty.detach())})


class _Reports(TrainerCallback):
    """Passes the Trainer's events on to the strategies and the listener."""

    def __init__(self, context: Context, strategies: Sequence[Strategy], listener: Listener) -> None:
        self._context = context
        self._strategies = strategies
        self._listener = listener

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for strategy in self._strategies:
            strategy.after_step(self._context)
        self._context.step += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._listener.stepped(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # the summary at the end of training
            return
        terms = self._context.take_terms()
        total = logs["loss"] + sum(value for name, value in terms.items() if name.endswith("_penalty"))
        if not math.isfinite(total):
            raise ClkitError(
                f"the loss of task '{self._context.task.name}' is {total} at step {state.global_step}; "
                "lower training.learning_rate, or use precision: fp32. Finished tasks are kept (--resume)"
            )
        # The Trainer's loss includes what strategies added to each batch's; each term is logged by itself.
        added = sum(terms.get(f"{strategy.name}_loss", 0.0) for strategy in self._strategies)
        self._listener.logged(
            {
                "step": state.global_step,
                "task_loss": logs["loss"] - added,
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm", math.nan),
                **terms,
            }
        )
