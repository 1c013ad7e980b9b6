"""Finds strategies by name: built in, from the entry point group `clkit.strategies`, or written as `module:Class`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_args

from clkit.errors import UsageError
from clkit.strategies import builtin
from clkit.strategies.contract import RESERVED, Strategy
from clkit.strategies.options import StrategyOptions
from clkit.wording import did_you_mean

ENTRY_POINTS = "clkit.strategies"


@cache
def built_in() -> tuple[str, ...]:
    """The strategies that come with clkit: each is a file of `clkit/strategies/builtin/` with its name."""
    return tuple(sorted(module.name for module in iter_modules(builtin.__path__)))


def _outside() -> dict[str, str]:
    """The strategies of installed packages with their ``module:Class``; none takes the name of a built-in one."""
    points = entry_points(group=ENTRY_POINTS)  # which reads a file of every installed package
    return {point.name: f"{point.module}:{point.attr}" for point in points if point.name not in built_in()}


def strategy_names() -> list[str]:
    """Every name that a recipe can use, those of installed packages last."""
    return [*built_in(), *_outside()]


def load_strategy(name: str) -> type[Strategy]:
    """The strategy class of that name.

    Args:
        name: a name of `strategy_names`, or ``module:Class``, whose module may also lie in the current folder.

    Raises:
        UsageError: the name is unknown, or what it leads to cannot be imported or does not keep the contract.
    """
    if name in built_in():
        return _only_strategy(f"{builtin.__name__}.{name}")
    outside = _outside()
    if name not in outside and ":" not in name:
        known = sorted([*built_in(), *outside])
        raise UsageError(
            f"unknown strategy '{name}'{did_you_mean(name, known)} (known: {', '.join(known)}; or module:Class)"
        )
    module, _, attribute = outside.get(name, name).partition(":")
    try:
        with _current_folder_on_path(name not in outside):
            found: Any = getattr(import_module(module), attribute)
    except Exception as error:  # the code of a plugin can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"strategy '{name}' cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise UsageError(f"strategy '{name}': {found!r} is not a subclass of clkit.Strategy")
    fault = _fault(found, name if name in outside else None)
    if fault is not None:
        raise UsageError(f"strategy '{name}': {fault}")
    return found


def _only_strategy(module: str) -> type[Strategy]:
    found = vars(import_module(module)).values()
    (strategy,) = (one for one in found if isinstance(one, type) and issubclass(one, Strategy) and one is not Strategy)
    return strategy


@contextmanager
def _current_folder_on_path(wanted: bool) -> Iterator[None]:
    """Modules in the current folder can be imported inside, as by `python -m clkit`, and nothing is left behind."""
    here = str(Path.cwd())
    added = wanted and here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _fault(strategy: type[Strategy], known_as: str | None) -> str | None:
    """What the class lacks to serve a recipe; ``known_as``: the name that a recipe uses, unless it is module:Class."""
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
