"""What every strategy's options share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

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
