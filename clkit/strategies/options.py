"""What every strategy's options share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from clkit.section import Section


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
