"""clkit: continual learning of language models.

>>> import clkit
>>> run = clkit.train(clkit.Recipe.load("quickstart"))
>>> run.matrix.metrics()["bwt"].value

Everything here is imported when it is first used, so that `import clkit` costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib import import_module
from pathlib import Path
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

#: What tells torch's threads on a CPU how to wait for each other; read once, when torch is imported.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_briefly(environment: MutableMapping[str, str], load: str) -> None:
    """Let threads that wait for others sleep: at once where other processes compute, else soon; unless the user chose.

    Without it they spin for milliseconds, on the very core that the others need where it is shared: a step of a small
    model then takes a hundred times as long. No result depends on it.

    Args:
        load: the text of `/proc/loadavg`, whose fourth word tells how many threads run, this one among them.
    """
    if not any(name in environment for name in WAITING):
        alone = load.split()[3].startswith("1/")
        environment["GOMP_SPINCOUNT"] = "1000" if alone else "0"


if (_load := Path("/proc/loadavg")).is_file() and "torch" not in sys.modules:
    wait_briefly(os.environ, _load.read_text())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
