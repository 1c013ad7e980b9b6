"""The one way in which a strategy's code is called: an error in it says whose it is, from the shell and from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clkit.errors import ClkitError, StrategyError, first_line
from clkit.strategies.contract import Strategy
from clkit.strategies.options import StrategyOptions


def make(strategy: type[Strategy], options: StrategyOptions) -> Strategy:
    """A strategy with its options; raises as `call` does."""
    made: Strategy = _guarded(strategy, "__init__", strategy, (options,))
    return made


def call(
    strategy: Strategy,
    hook: str,
    *arguments: Any,
    passing: tuple[type[Exception], ...] = (),
    gives: type | None = None,
) -> Any:
    """What a strategy's hook, or another of its methods, returns; what it yields, as a list.

    Args:
        passing: errors that the caller expects.
        gives: what is returned must be of this type.

    Raises:
        StrategyError: the hook raised what clkit does not raise on purpose, or returned something else; the message
            names strategy, hook and line.
    """
    owner = type(strategy)
    found = _guarded(owner, hook, getattr(strategy, hook), arguments, passing)
    if gives is not None and not isinstance(found, gives):
        said = f"must return {gives.__name__}, not {type(found).__name__}"
        raise StrategyError(f"strategy {owner.__name__}, {hook}: {said}")
    return found


def call_all(strategies: Iterable[Strategy], hook: str, *arguments: Any) -> None:
    """`call` a hook that returns nothing, strategy after strategy."""
    for strategy in strategies:
        call(strategy, hook, *arguments)


def _guarded(
    owner: type[Strategy],
    hook: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    passing: tuple[type[Exception], ...] = (),
) -> Any:
    try:
        found = function(*arguments)
        return [*found] if isinstance(found, Iterator) else found
    except Exception as error:
        if isinstance(error, (ClkitError, *passing)):
            raise
        inside = error.__traceback__.tb_next if error.__traceback__ else None  # None: it does not take these arguments
        line = f" ({inside.tb_frame.f_code.co_filename}:{inside.tb_lineno})" if inside else ""
        own = owner.__module__.startswith("clkit.")
        advice = "unexpected: please report it" if own else "in code that is not clkit's; --debug shows more"
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise StrategyError(f"strategy {owner.__name__}, {hook}{line}: {reason} ({advice})") from error
