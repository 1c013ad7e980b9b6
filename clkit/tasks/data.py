"""Reads the data that lies beside the code as YAML."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

# The loader in C is ten times faster, and most builds of PyYAML have it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def tables(name: str) -> dict[str, Any]:
    """What ``clkit/tasks/NAME.yaml`` holds; the same object in each call."""
    text = Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=_LOADER))
