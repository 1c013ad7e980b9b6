"""Modules that are imported when something of them is first used.

What a recipe says of a strategy stands in one file with the strategy, and reading it must not cost the seconds that
importing torch takes. Such a file names its heavy modules so, with the same names for type checkers::

    if TYPE_CHECKING:
        import torch
    else:
        torch = LazyModule("torch")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for a module; the first attribute that is asked for imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
