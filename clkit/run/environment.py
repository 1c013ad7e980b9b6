"""What `env.json` says of the machine and the packages that made a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
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


def changed_versions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line if a run goes on with other packages than it began with: its numbers may then differ a little."""
    other = [f"{name} {now[name]} (was {before[name]})" for name in now if before.get(name, now[name]) != now[name]]
    return [f"other versions than when the run began: {', '.join(other)}"] if other else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
