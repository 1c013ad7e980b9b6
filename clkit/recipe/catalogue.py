"""What a recipe can name: shipped recipes, strategies, benchmarks, embedded models; each with what it is."""

from __future__ import annotations

from clkit.errors import UsageError
from clkit.models.embedded import EMBEDDED_MODELS
from clkit.recipe.shipped import description, shipped_recipes
from clkit.strategies.options import StrategyOptions
from clkit.strategies.registry import load_strategy, strategy_names
from clkit.tasks.benchmarks import BENCHMARKS


def recipes() -> dict[str, str]:
    """Each shipped recipe with what its file says it is."""
    return {name: description(path) for name, path in shipped_recipes().items()}


def strategies() -> dict[str, str]:
    """Each strategy with what its options say it is; a plugin that cannot be imported with the reason."""
    return {name: _about_strategy(name) for name in sorted(strategy_names())}


def _about_strategy(name: str) -> str:
    try:
        strategy = load_strategy(name)
    except UsageError as error:
        return str(error)
    about = strategy.__doc__ if strategy.Options is StrategyOptions else strategy.Options.__doc__
    return (about or "").strip().partition("\n")[0]


def benchmarks() -> dict[str, str]:
    """Each benchmark with what it is and the numbers of its orders."""
    return {
        name: f"{benchmark.description} Orders: {', '.join(map(str, benchmark.orders))}."
        for name, benchmark in BENCHMARKS.items()
    }


def models() -> dict[str, str]:
    """Each model that comes with clkit, as a recipe names it."""
    return {f"embedded:{name}": about for name, about in EMBEDDED_MODELS.items()}


KINDS = {"recipes": recipes, "strategies": strategies, "benchmarks": benchmarks, "models": models}


def entries(kind: str) -> dict[str, str]:
    """Names and descriptions of one of `KINDS`."""
    return KINDS[kind]()
