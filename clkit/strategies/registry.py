"""Finds strategies by name: built in, from the entry point group `clkit.strategies`, or written as `module:Class`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from clkit.errors import UsageError
from clkit.recipe.section import did_you_mean

if TYPE_CHECKING:
    from clkit.strategies.base import Strategy
    from clkit.strategies.options import StrategyOptions

BUILT_IN = {"migu": "clkit.strategies.migu:MIGU"}
ENTRY_POINTS = "clkit.strategies"


def strategy_names() -> dict[str, str]:
    """Each known name with its ``module:Class``; a plugin cannot take the name of a built-in strategy."""
    outside = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**outside, **BUILT_IN}


def load_strategy(name: str) -> type[Strategy]:
    """The strategy class of that name.

    Raises:
        UsageError: the name is unknown, or what it leads to is not a `Strategy`.
    """
    known = strategy_names()
    if name not in known and ":" not in name:
        raise UsageError(
            f"unknown strategy '{name}'{did_you_mean(name, known)} (known: {', '.join(sorted(known))}; or module:Class)"
        )
    module, _, attribute = known.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"strategy '{name}' cannot be imported: {error}") from error

    from clkit.strategies.base import Strategy

    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise UsageError(f"strategy '{name}': {found!r} is not a subclass of clkit.Strategy")
    return found


def check_composition(options: Sequence[StrategyOptions], tuning: str) -> None:
    """Refuse strategies that do not work together or not with this tuning.

    Raises:
        ValueError: with the reason.
    """
    names = [entry.name for entry in options]
    for name in names:
        strategy = load_strategy(name)
        if names.count(name) > 1:
            raise ValueError(f"strategies: '{name}' stands more than once; merge its options into one entry")
        if tuning not in strategy.tunings:
            raise ValueError(
                f"strategies.{name}: does not work with tuning.method: {tuning} "
                f"(works with: {', '.join(sorted(strategy.tunings))})"
            )
        for other, reason in strategy.conflicts.items():
            if other in names:
                raise ValueError(f"strategies.{name}: conflicts with '{other}': {reason}")
        for other, reason in strategy.requires.items():
            if other not in names:
                raise ValueError(f"strategies.{name}: requires '{other}': {reason}")
