"""The options of replay: how much of finished tasks is kept and mixed in, and which general data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clkit.strategies.options import FurtherData, StrategyOptions


class GeneralData(FurtherData):
    """Texts or instructions that are no task's, mixed into the training data of every task, the first included."""

    ratio: Annotated[float, Field(gt=0)] = Field(
        0.05,
        description="General examples per example of the task at hand, at least one: 0.05 adds one to twenty. Each "
        "task draws its own, and an epoch goes once over all: the task's, the replayed and the general ones.",
    )


class ReplayOptions(StrategyOptions):
    """Experience replay: some examples of each finished task are trained on again with the next tasks."""

    name: Literal["replay"] = Field(description="Experience replay.")
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.02,
        description="Share of each finished task's examples that is kept, at least one example; "
        "in force where neither `number` nor `capacity` is given. With `general`, null keeps none.",
    )
    number: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Examples that are kept of each finished task, all where it has fewer; replaces `share`."
    )
    selection: Literal["random", "balanced", "reservoir"] = Field(
        "random",
        description="How the kept examples are drawn: at `random`; `balanced`, as many of each answer as far as there "
        "are; or by `reservoir` sampling, which gives every example of all finished tasks the same chance.",
    )
    capacity: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Examples that are kept of all finished tasks together, with `selection: reservoir`."
    )
    ratio: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Replayed examples per example of the task at hand, repeated or drawn from the kept ones: "
        "0.25 adds one to four. Without it, every kept example is replayed once.",
    )
    general: GeneralData | None = Field(
        None, description="Data that are no task's, to be mixed into the training data of every task."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_share_gives_way(cls, value: Any) -> Any:
        # Only to what is written: a `share` that is written beside another amount is a contradiction.
        if isinstance(value, Mapping) and (value.get("number") is not None or value.get("selection") == "reservoir"):
            return {"share": None, **value}
        return value

    @model_validator(mode="after")
    def _one_amount(self) -> ReplayOptions:
        if self.selection == "reservoir":
            for key in ("share", "number"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: remove it; with selection: reservoir, capacity says how many are kept")
            if self.capacity is None:
                raise ValueError("capacity: missing; selection: reservoir needs to know how many examples are kept")
            return self
        if self.capacity is not None:
            raise ValueError("capacity: remove it, or set selection: reservoir")
        if self.share is not None and self.number is not None:
            raise ValueError("number: remove it, or remove share; only one of them can say how many examples are kept")
        if self.share is None and self.number is None and self.general is None:
            raise ValueError("share: null leaves open how many examples are kept; give share or number")
        if not self.keeps and (self.ratio is not None or self.selection != "random"):
            key = "selection" if self.ratio is None else "ratio"
            raise ValueError(f"{key}: share: null keeps no examples of finished tasks; give share or number")
        return self

    @property
    def keeps(self) -> bool:
        """Whether anything of finished tasks is kept."""
        return (self.share, self.number, self.capacity) != (None, None, None)

    def further_data(self) -> Mapping[str, FurtherData]:
        return {} if self.general is None else {"general": self.general}

    def contradictions(self, tasks: Sequence[str], unlabelled: Collection[str]) -> Iterator[str]:
        if self.selection == "balanced" and unlabelled:
            yield (
                "selection: balanced keeps as many examples of each label, and task "
                f"'{min(unlabelled, key=tasks.index)}' has no labels; use random"
            )

    def kept_of(self, examples: int) -> int:
        """How many of a finished task's examples `share` or `number` keeps: at least one, at most all."""
        if not self.keeps:
            return 0
        wanted = self.number or round((self.share or 0.0) * examples)
        return min(max(wanted, 1), examples)
