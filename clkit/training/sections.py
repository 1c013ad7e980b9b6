"""What a recipe says of how a task is trained, and of what is kept meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from shutil import which
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from clkit.section import NOT_THE_RESULT, Section

#: Those of the Trainer's optimizers that step once, after the whole backward pass, and keep nothing that a checkpoint
#: cannot hold: a strategy's hooks come before and after that step.
OptimizerName = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
]
#: The package that an optimizer's name tells of; the others are torch's own, or transformers'.
PACKAGE_OF: Mapping[str, str] = dict.fromkeys(
    ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit"),
    "bitsandbytes",
)

#: Experiment trackers; each has the name of its package, and of the extra that installs it.
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

#: The one whose step can leave rows of a weight alone (`RowAdamW`).
ROW_OPTIMIZER: OptimizerName = "adamw_torch_fused"

#: Any of these, or what `CXX` names, is enough for `training.compile` on a CPU or, C alone, on a GPU.
_COMPILERS = ("g++", "clang++", "gcc", "clang", "cl")


class TaskTraining(Section):
    """What one task does differently in training."""

    epochs: Annotated[float, Field(gt=0, le=100_000)] | None = Field(None, description="Passes over this task's data.")
    learning_rate: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Peak learning rate on this task."
    )


class TrainingSection(Section):
    """How each task is trained."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        64, description="Examples per optimizer step, over all micro-batches and processes together."
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Examples per forward pass on each process; without it, the whole share of the process."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = Field(1e-4, description="Peak learning rate.")
    epochs: Annotated[float, Field(gt=0, le=100_000)] = Field(1.0, description="Passes over each task's data.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rate after warm-up; it starts anew with each task."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each task's steps over which the learning rate rises from zero."
    )
    optimizer: OptimizerName = Field(
        "adamw_torch_fused",
        description="One of the Trainer's optimizers. `adamw_torch_fused` makes AdamW's step in one pass over the "
        "parameters; those with `8bit`, `paged` or `lion` in their name need bitsandbytes.",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Weight decay; decoupled with AdamW, Adafactor and Lion."
    )
    adam_betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="β1 and β2 of AdamW or Lion."
    )
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Clip the gradient's norm to this; 0: never.")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32",
        description="`fp32`, or mixed precision in training; fp16 needs an accelerator. `auto`: bf16 where the device "
        "has units for it (GPUs since Ampere, CPUs with AMX), else fp32; `env.json` says which. Tests are in float32.",
    )
    matmul: Literal["highest", "high", "medium"] = Field(
        "highest",
        description="How precisely products of float32 matrices are computed in training: `highest`, in float32; "
        "`high` and `medium` may round the factors, to TF32 on a GPU and, `medium` only, to bfloat16 on a CPU that "
        "has instructions for it. Tests are not affected.",
    )
    compile: bool = Field(
        False,
        description="Compile the model's forward and backward pass in training (`torch.compile`): faster steps, after "
        "a minute that each task begins with. Needs a C++ compiler. Tests are not affected.",
    )
    liger: bool = Field(
        False,
        description="Compute norms, rotations and gated feed-forward networks by the fused kernels of Liger "
        "(`pip install 'clkit[liger]'`): less memory and time on a GPU, for the decoders that it knows.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share ε of the loss that wants all classes to be equally likely, rather than the label."
    )
    neftune_alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Add noise to word embeddings in training, uniform in ±α/√(tokens · width) (NEFTune)."
    )
    group_by_length: bool = Field(
        False,
        description="Make batches of examples of similar length: less padding, more speed, a little less randomness.",
    )
    packing: bool = Field(
        False,
        description="Put several short examples of a micro-batch into one row, no longer than its longest, in place of "
        "padding. Positions start anew with each and none sees another, so that losses and steps are the same but for "
        "rounding; `batch_size` counts examples as ever. For decoders.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    evaluate_every: Annotated[int, Field(ge=1)] | Literal["epoch"] | None = Field(
        None,
        description="While a task is trained, measure the loss on its validation split after every so many optimizer "
        "steps, or after every `epoch`, and after the last step; null: never. Needs `data.validation_share`.",
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="Whose weights a task ends with, and with them what strategies take from it: those of the `last` "
        "step, or those with the `best` (lowest) validation loss. `best` holds a copy of what is trained in main "
        "memory and in checkpoints.",
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="End a task's training after so many measurements in a row without a lower validation loss."
    )
    on_nan: Annotated[Literal["stop", "skip"], NOT_THE_RESULT] = Field(
        "stop",
        description="A loss or gradient that is not finite: `stop` the run, or `skip` that step's update, which the "
        "log counts as `skipped_steps`. May differ on `--resume`.",
    )
    log_every: Annotated[int, Field(ge=1), NOT_THE_RESULT] = Field(
        10, description="Optimizer steps between two lines of the log. May differ on `--resume`."
    )
    report_to: Annotated[list[TrackerName], NOT_THE_RESULT] = Field(
        [],
        description="Experiment trackers that follow the run: settings, loss terms, scores and metrics of each stage. "
        "Each needs its extra (`pip install 'clkit[wandb]'`). May differ on `--resume`.",
    )
    per_task: dict[str, TaskTraining] = Field(
        {}, description="Other epochs or learning rates for single tasks, by name."
    )

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, value: list[TrackerName]) -> list[TrackerName]:
        if len({*value}) < len(value):
            raise ValueError("name each tracker once")
        return value

    @model_validator(mode="after")
    def _every_setting_counts(self) -> TrainingSection:
        betas = type(self).model_fields["adam_betas"].default
        if self.adam_betas != betas and not self.optimizer.removeprefix("paged_").startswith(("adamw", "lion")):
            raise ValueError(f"adam_betas: optimizer: {self.optimizer} has none; leave it at {betas}")
        other = next((key for key in ("compile", "liger") if getattr(self, key)), None)
        if self.packing and other is not None:
            raise ValueError(
                f"packing: that examples in one row stay apart is not tried with {other}; use one of the two"
            )
        if self.compile and self.liger:
            raise ValueError("liger: compile makes kernels for the same parts of the model; set one of them to false")
        if self.evaluate_every is None and (self.keep == "best" or self.patience is not None):
            key = "keep: best" if self.keep == "best" else "patience"
            raise ValueError(f"evaluate_every: {key} needs a validation loss; set it to a number of steps, or to epoch")
        return self


def missing_for_speed(training: TrainingSection) -> Iterator[str]:
    """One line for each program or package that `training.compile` or `training.liger` needs and that is not there."""
    if training.compile and not any(map(which, (os.environ.get("CXX", ""), *_COMPILERS))):
        yield "training.compile: needs a C++ compiler, and none is found here; install g++, or set it to false"
    if training.liger and find_spec("liger_kernel") is None:
        yield "training.liger: liger-kernel is not installed: `pip install 'clkit[liger]'`"


class SavingSection(Section):
    """What the run keeps."""

    models: Literal["all", "last"] = Field(
        "all",
        description="Keep the model (or adapter) and what the strategies keep after `all` tasks, or only after the "
        "`last` finished one.",
    )
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = Field(
        10.0,
        description="Inside a task, save what `--resume` goes on from every so many minutes, or more rarely where "
        "saving would take more than 3 % of the time; null: only when the run is asked to stop.",
    )
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Save it every so many optimizer steps as well."
    )
    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(
        2, description="Keep so many of the newest checkpoints while the task is trained; none once it is."
    )
