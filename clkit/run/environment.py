"""What `env.json` says of the machine and the packages that made a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from clkit.redaction import recordable

PACKAGES = ("clkit", "torch", "transformers", "datasets", "peft", "tokenizers", "accelerate")


def environment(seed: int, command: Sequence[str]) -> dict[str, Any]:
    """What `env.json` records of a run. Environment variables are left out: they may hold tokens; so may a command."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "seed": seed,
        "command": [recordable(argument) for argument in command],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
