"""From a recipe's `training` section to the Trainer's arguments for one task."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from tempfile import gettempdir
from typing import Any, Protocol

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from clkit.draws import seeded
from clkit.errors import RecipeError, UsageError, first_line
from clkit.models.precision import has_bfloat16
from clkit.processes import processes
from clkit.strategies.contract import Steps, Strategy
from clkit.training.sections import ROW_OPTIMIZER, TrainingSection, missing_for_speed

#: What makes kernels of a model's graph, with `training.compile`.
COMPILER = "inductor"


class Trained(Protocol):
    """What a recipe says of how tasks are trained."""

    @property
    def seed(self) -> int: ...

    @property
    def training(self) -> TrainingSection: ...


def task_seed(seed: int, index: int) -> int:
    """The seed of one task's training. Each task starts from its own, so a resumed run draws what a whole one drew."""
    return seeded("train", seed, index).getrandbits(31)


def batch_split(batch_size: int, micro_batch_size: int | None, processes: int) -> tuple[int, int]:
    """Examples per forward pass and forward passes per step, on each process, that make up the effective batch.

    Raises:
        RecipeError: the batch cannot be divided evenly.
    """
    share, rest = divmod(batch_size, processes)
    micro = min(micro_batch_size or share, share) if not rest else 0
    if rest or share % micro:
        raise RecipeError(
            f"training.batch_size: {batch_size} cannot be divided into {processes} process(es) "
            f"× micro-batches of {micro_batch_size}; choose a multiple of {processes * (micro_batch_size or 1)}"
        )
    return micro, share // micro


def task_value(recipe: Trained, task: str, key: str) -> float:
    """`epochs` or `learning_rate` of a task: its own where `training.per_task` has one."""
    own = recipe.training.per_task.get(task)
    value = getattr(own, key) if own is not None else None
    return float(value if value is not None else getattr(recipe.training, key))


def task_steps(recipe: Trained, task: str, examples: int) -> int:
    """Optimizer steps that the task's training takes; the last batch of an epoch may be smaller."""
    return math.ceil(math.ceil(examples / recipe.training.batch_size) * task_value(recipe, task, "epochs"))


def chosen_precision(training: TrainingSection) -> str:
    """The precision of training on this machine."""
    if training.precision != "auto":
        return training.precision
    return "bf16" if has_bfloat16(processes().device) else "fp32"


def check_training(recipe: Trained) -> None:
    """Refuse what the Trainer cannot do on this machine, before the first test rather than after it.

    Raises:
        RecipeError: the batch cannot be divided into processes and micro-batches.
        UsageError: the precision needs an accelerator that this machine lacks, or the optimizer a package or device.
    """
    training = recipe.training
    for problem in missing_for_speed(training):
        raise UsageError(problem)
    batch_split(training.batch_size, training.micro_batch_size, processes().num_processes)
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("training.precision: fp16 needs a GPU, and none is visible here; use fp32 or bf16")
    if training.liger and not torch.cuda.is_available():
        raise UsageError("training.liger: its kernels are for GPUs, and none is visible here; set it to false")
    arguments = training_arguments(recipe, "", 0, gettempdir())  # where nothing is written
    if training.compile and processes().num_processes > 1:
        raise UsageError("training.compile: has not been tried with several processes; set it to false, or use one")
    if training.compile:
        _try_to_compile(arguments.device)
    try:
        optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        parameter = nn.Parameter(torch.ones(1, device=arguments.device))
        parameter.grad = torch.ones_like(parameter)
        optimizer([parameter], **options).step()
    except Exception as error:  # each of these libraries has its own
        raise UsageError(
            f"training.optimizer: {training.optimizer} cannot be used here ({first_line(error)}); adamw_torch_fused "
            "needs nothing more"
        ) from error


def check_liger(model_type: str) -> None:
    """Make sure that Liger has kernels for models of that type: for others the Trainer does without, and says nothing.

    Raises:
        UsageError: it has none.
    """
    if model_type not in known_to_liger():
        raise UsageError(f"training.liger: has no kernels for models of type '{model_type}'; set it to false")


def known_to_liger() -> Collection[str]:
    """The types of models that it has kernels for."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # which Triton must be there for

    return list(MODEL_TYPE_TO_APPLY_LIGER_FN)


def _try_to_compile(device: torch.device) -> None:
    try:
        torch.compile(torch.relu, backend=COMPILER)(torch.ones(8, device=device))
    except Exception as error:  # of the compiler, of Triton, or of what either is started by
        reason = first_line(error).rstrip(".")
        raise UsageError(f"training.compile: nothing can be compiled here ({reason}); set it to false") from error
    finally:
        torch.compiler.reset()


def steps(training: TrainingSection, strategies: Sequence[Strategy], strategy: Strategy) -> Steps:
    """How optimizer steps are made, as one of the strategies can use it."""
    state = processes()
    others = [one.options.name for one in strategies if one is not strategy and looks_at_gradients(one)]
    if training.optimizer != ROW_OPTIMIZER:
        whole = f"training.optimizer: {training.optimizer} has no other way"
    elif state.device.type != "cpu":
        whole = f"it is fastest so on this device ({state.device.type})"
    elif state.num_processes > 1:
        whole = "several processes reduce them"
    else:
        whole = f"{others[0]} may look at them" if others else ""
    _, micro_batches = batch_split(training.batch_size, training.micro_batch_size, state.num_processes)
    return Steps(micro_batches, state.num_processes, whole, training.compile, training.liger)


def looks_at_gradients(strategy: Strategy) -> bool:
    """Whether it has hooks of its own around the optimizer's step, which may read or change gradients."""
    kind = type(strategy)
    return kind.before_step is not Strategy.before_step or kind.after_step is not Strategy.after_step


def training_arguments(recipe: Trained, task: str, index: int, output: str) -> TrainingArguments:
    """The Trainer's arguments for one task. It evaluates nothing, and saves when `CheckpointCallback` says so."""
    training = recipe.training
    micro, accumulation = batch_split(training.batch_size, training.micro_batch_size, processes().num_processes)
    schedule = "constant_with_warmup" if training.schedule == "constant" else training.schedule
    seed = task_seed(recipe.seed, index)
    values: dict[str, Any] = {
        "output_dir": output,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": task_value(recipe, task, "epochs"),
        "learning_rate": task_value(recipe, task, "learning_rate"),
        "lr_scheduler_type": schedule,
        "warmup_steps": training.warmup_ratio,  # below 1 it is a share of all steps
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_betas[0],
        "adam_beta2": training.adam_betas[1],
        "max_grad_norm": training.max_grad_norm,
        "label_smoothing_factor": training.label_smoothing,
        "neftune_noise_alpha": training.neftune_alpha,
        "bf16": chosen_precision(training) == "bf16",
        "fp16": training.precision == "fp16",
        "activation_checkpointing": training.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if training.gradient_checkpointing else None,
        "torch_compile": training.compile,
        "torch_compile_backend": COMPILER if training.compile else None,
        "tf32": False if training.compile else None,  # else compiling would turn it on, for tests too
        "use_liger_kernel": training.liger,
        # The loss is computed from the logits, by `token_mean_loss`.
        "liger_kernel_config": {"fused_linear_cross_entropy": False},
        "optim": training.optimizer,
        "train_sampling_strategy": "group_by_length" if training.group_by_length else "random",
        "logging_steps": training.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "seed": seed,
        "data_seed": seed,
    }
    arguments = TrainingArguments(**values)
    # One process with several GPUs would run under nn.DataParallel, whose copies of the layers the hooks never see.
    # Several GPUs are used with `accelerate launch`, one process each.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
