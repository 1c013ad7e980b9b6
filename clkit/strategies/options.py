"""What every strategy's options share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from clkit.section import Section
from clkit.tasks.sections import AnySource, TaskRecipe

#: A share of a layer's rows or directions that may be less than one of them.
SMALL = 0.1


class FurtherData(Section):
    """Data that are no task's."""

    source: AnySource = Field(
        description="Where they come from, as `tasks.source`; only what is there to train on is read. Texts without "
        "answers (`.txt`, `label: null`) are plain text, of which an example is a block of at most 256 tokens."
    )
    number: Annotated[int, Field(ge=1)] = Field(
        10_000, description="At most so many rows of the source are used, drawn at random."
    )

    @model_validator(mode="after")
    def _is_not_tested(self) -> FurtherData:
        if getattr(self.source, "test", None) is not None:
            raise ValueError("source.test: nothing is tested on these data; remove it")
        return self

    def as_task(self, strategy: str, key: str) -> TaskRecipe:
        """The data as a task's, to be loaded like one; named by the strategy and the key of its options."""
        return TaskRecipe(name=f"{strategy.rpartition(':')[2]}.{key}", source=self.source, answers="free")


class StrategyOptions(Section):
    """Options of one strategy. A strategy's own model narrows ``name`` to the strategy's and adds its fields.

    Attributes:
        name: as the recipe has it: the strategy's name, or ``module:Class``.
    """

    name: str

    def contradictions(self, tasks: Sequence[str], unlabelled: Collection[str]) -> Iterator[str]:
        """What does not fit the recipe's tasks; each message begins with a key of these options.

        Args:
            tasks: their names, in order.
            unlabelled: of them those without labels: free-form answers, or texts to be pre-trained on.
        """
        yield from ()

    @property
    def asks_model(self) -> bool:
        """Whether only the model tells if they fit it, although its blocks are of attention and feed-forward alone."""
        return True

    @property
    def by_rows(self) -> str | None:
        """The option, if any, for which the optimizer must step single rows of whole weights."""
        return None

    def further_data(self) -> Mapping[str, FurtherData]:
        """What the strategy trains on beside the tasks' data, by the key of these options; it becomes its `data`."""
        return {}


class LayerOptions(StrategyOptions):
    """Options of a strategy that works on linear layers of the model."""

    layers: Annotated[list[str], Field(min_length=1)] = Field(
        ["attention", "feed_forward"],
        description="Linear layers that are worked on: roles (`attention`, `feed_forward`, `lm_head`), names (`q`) or "
        "patterns over full names (`decoder.*`).",
    )
    partial: bool = Field(
        False,
        description="Go on where `layers` leaves out a part of attention or feed-forward (the fused experts of a "
        "mixture, the convolutions of a hybrid), instead of refusing the model.",
    )

    @property
    def asks_model(self) -> bool:
        few = any(isinstance(value, float) and 0 < value < SMALL for value in self.model_dump().values())
        return few or self.layers != type(self).model_fields["layers"].default
