"""What the model knew before, and whether it still does: the recipe's section on general ability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clkit.results.kinds import Protocol
from clkit.section import DataPath, Section, absolute

BUILTIN = "builtin"


def _builtin_or_path(value: Any) -> Any:
    return BUILTIN if value == BUILTIN else absolute(value)


class LmEvalSection(Section):
    """Which tests of lm-eval are done (`pip install 'clkit[lm-eval]'`); decoder and encoder-decoder models."""

    tasks: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        description="Names of lm-eval's tasks, groups or tags, as `hellaswag`; `lm-eval ls tasks` lists them.",
    )
    include_path: DataPath | None = Field(
        None,
        description="Folder with YAML files of further tasks, which need no hub if their data are local; Python "
        "functions that they name (`!function`) are run, so read them first.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Test on the first so many examples of each.")
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Solved examples before each question; null: as many as the task itself says."
    )
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(8, description="Requests per forward pass.")


class GeneralSection(Section):
    """What is measured of the model's general ability, beside the tasks; training is the same with and without it."""

    when: Literal["all", "ends", "final"] = Field(
        "all",
        description="Measure before the first task and after `all` tasks, at both `ends` only, or only after the "
        "`final` task.",
    )
    texts: Annotated[str, BeforeValidator(_builtin_or_path)] | None = Field(
        None,
        description="Measure the loss per token on `builtin` English prose or on a text file of your own (UTF-8): of "
        "the next token (decoder), of masked spans (T5; without sentinel tokens, of a text's second half given the "
        "first) or of masked tokens (encoder).",
    )
    lm_eval: LmEvalSection | None = Field(None, description="Tests of lm-eval to do.")

    @model_validator(mode="after")
    def _measures_something(self) -> GeneralSection:
        if self.texts is None and self.lm_eval is None:
            raise ValueError("measures nothing; give texts, lm_eval or both, for example texts: builtin")
        return self

    def contradictions(self, objective: str, protocol: Protocol) -> Iterator[str]:
        """What does not fit the rest of the recipe; each message begins with the key that it is about."""
        if objective == "classification":
            yield (
                "general: with objective.kind: classification the model has a head for labels and none for words, so "
                "neither texts nor lm_eval can be measured; leave the section out"
            )
        if protocol == "per_task" and self.when != "all":
            yield (
                f"general.when: '{self.when}' does not fit protocol: per_task, where each task has a model of its own; "
                "use 'all'"
            )
        if protocol == "zero_shot" and self.when == "final":
            yield "general.when: 'final' does not fit protocol: zero_shot, which learns no task; use 'all'"
