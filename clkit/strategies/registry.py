"""Finds strategies by name: built in, from the entry point group `clkit.strategies`, or written as `module:Class`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clkit.errors import UsageError
from clkit.section import did_you_mean

if TYPE_CHECKING:
    from clkit.strategies.contract import Strategy
    from clkit.strategies.options import StrategyOptions

BUILT_IN = {
    "ewc": "clkit.strategies.builtin.ewc:EWC",
    "lwf": "clkit.strategies.builtin.lwf:LwF",
    "migu": "clkit.strategies.builtin.migu:MIGU",
    "olora": "clkit.strategies.builtin.olora:OLoRA",
    "osf": "clkit.strategies.builtin.osf:OSF",
    "replay": "clkit.strategies.builtin.replay:Replay",
}
ENTRY_POINTS = "clkit.strategies"


def strategy_names() -> dict[str, str]:
    """Each known name with its ``module:Class``; a plugin cannot take the name of a built-in strategy."""
    outside = {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=ENTRY_POINTS)}
    return {**outside, **BUILT_IN}


def load_strategy(name: str) -> type[Strategy]:
    """The strategy class of that name.

    Args:
        name: a name of `strategy_names`, or ``module:Class``, whose module may also lie in the current folder.

    Raises:
        UsageError: the name is unknown, or what it leads to cannot be imported or does not keep the contract.
    """
    known = BUILT_IN if name in BUILT_IN else strategy_names()  # which reads a file of every installed package
    if name not in known and ":" not in name:
        raise UsageError(
            f"unknown strategy '{name}'{did_you_mean(name, known)} (known: {', '.join(sorted(known))}; or module:Class)"
        )
    here = str(Path.cwd())
    if name not in known and here not in sys.path:
        sys.path.append(here)  # the `clkit` command does not look here by itself, as `python -m clkit` does
    module, _, attribute = known.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # the code of a plugin can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"strategy '{name}' cannot be imported: {reason}") from error

    from clkit.strategies.contract import Strategy

    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise UsageError(f"strategy '{name}': {found!r} is not a subclass of clkit.Strategy")
    fault = _fault(found, None if name not in known else name)
    if fault is not None:
        raise UsageError(f"strategy '{name}': {fault}")
    return found


def _fault(strategy: type[Strategy], known_as: str | None) -> str | None:
    """What the class lacks to serve a recipe; ``known_as``: the name that a recipe uses, unless it is module:Class."""
    from clkit.strategies.contract import RESERVED
    from clkit.strategies.options import StrategyOptions

    own, options = getattr(strategy, "name", None), strategy.Options
    if not isinstance(own, str):
        return f'{strategy.__name__} has no name; add `name = "..."` to the class'
    if f"{own}_loss" in RESERVED:
        return f"the name '{own}' would log the strategy's loss as the task's; choose another"
    if known_as not in (None, own):
        return f"{strategy.__name__} calls itself '{own}'; its entry point must have the same name"
    if not (isinstance(options, type) and issubclass(options, StrategyOptions)):
        return f"{strategy.__name__}.Options is not a subclass of clkit.strategies.options.StrategyOptions"
    if options is not StrategyOptions and get_args(options.model_fields["name"].annotation) != (own,):
        return f'{options.__name__} does not narrow its name; add the field `name: Literal["{own}"]`'
    return None


def check_composition(options: Sequence[StrategyOptions], tuning: str) -> None:
    """Refuse strategies that do not work together or not with this tuning.

    Raises:
        ValueError: with the reason.
    """
    strategies = {entry.name: load_strategy(entry.name) for entry in options}
    names = [strategies[entry.name].name for entry in options]  # one written as module:Class has a name too
    for name, strategy in strategies.items():
        if names.count(strategy.name) > 1:
            raise ValueError(f"strategies: '{strategy.name}' stands more than once; merge its options into one entry")
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
