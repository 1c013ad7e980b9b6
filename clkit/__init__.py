"""clkit: continual learning of language models.

>>> import clkit
>>> run = clkit.train(clkit.Recipe.load("quickstart"))
>>> run.matrix.metrics()["bwt"].value

Everything here is imported when it is first used, so that `import clkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clkit.engine.evaluate import evaluate
    from clkit.engine.sequence import train
    from clkit.errors import ClkitError
    from clkit.recipe.recipe import Recipe
    from clkit.report.page.report import Report
    from clkit.results.matrix import AccuracyMatrix
    from clkit.run.folder import RunFolder
    from clkit.strategies.contract import Context, Strategy
    from clkit.strategies.options import StrategyOptions

__version__ = "0.1.0"

_HOMES = {
    "AccuracyMatrix": "clkit.results.matrix",
    "ClkitError": "clkit.errors",
    "Context": "clkit.strategies.contract",
    "Recipe": "clkit.recipe.recipe",
    "Report": "clkit.report.page.report",
    "RunFolder": "clkit.run.folder",
    "Strategy": "clkit.strategies.contract",
    "StrategyOptions": "clkit.strategies.options",
    "evaluate": "clkit.engine.evaluate",
    "train": "clkit.engine.sequence",
}

__all__ = [
    "AccuracyMatrix",
    "ClkitError",
    "Context",
    "Recipe",
    "Report",
    "RunFolder",
    "Strategy",
    "StrategyOptions",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
