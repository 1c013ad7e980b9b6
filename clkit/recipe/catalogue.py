"""What a recipe can name: shipped recipes, strategies, benchmarks, embedded models; each with what it is."""

from __future__ import annotations

from collections.abc import Callable

from clkit.errors import UsageError
from clkit.models.embedded import EMBEDDED_MODELS
from clkit.recipe.shipped import description, shipped_recipes
from clkit.strategies.options import StrategyOptions
from clkit.strategies.registry import load_strategy, strategy_names
from clkit.tasks.benchmarks import benchmarks

#: Names with descriptions of each kind: what a recipe's file says it is; what a strategy's options say, or why a plugin
#: cannot be imported; benchmarks with the numbers of their orders; models as a recipe names them.
KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "recipes": lambda: {name: description(path) for name, path in shipped_recipes().items()},
    "strategies": lambda: {name: _about_strategy(name) for name in sorted(strategy_names())},
    "benchmarks": lambda: {
        name: f"{benchmark.description} Orders: {', '.join(map(str, benchmark.orders))}."
        for name, benchmark in benchmarks().items()
    },
    "models": lambda: {f"embedded:{name}": about for name, about in EMBEDDED_MODELS.items()},
}


def _about_strategy(name: str) -> str:
    try:
        strategy = load_strategy(name)
    except UsageError as error:
        return str(error)
    about = strategy.__doc__ if strategy.Options is StrategyOptions else strategy.Options.__doc__
    return (about or "").strip().partition("\n")[0]
