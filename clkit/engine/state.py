"""The strategies' state on disk: tensors as safetensors, everything else as JSON. No pickle is ever read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clkit.atomic import write_atomically
from clkit.errors import RunError
from clkit.strategies.base import Strategy

TENSORS = "strategies.safetensors"
VALUES = "strategies.json"


def save_strategies(strategies: Sequence[Strategy], folder: Path) -> None:
    """Write every strategy's state into a task's folder."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for strategy in strategies:
        values[strategy.options.name] = {}
        for key, value in strategy.state_dict().items():
            if isinstance(value, torch.Tensor):
                tensors[f"{strategy.options.name}/{key}"] = value.detach().contiguous().cpu()
            else:
                values[strategy.options.name][key] = value
    save_file(tensors, folder / TENSORS)
    write_atomically(folder / VALUES, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def load_strategies(strategies: Sequence[Strategy], folder: Path) -> None:
    """Give every strategy back the state that `save_strategies` wrote.

    Raises:
        RunError: the state is missing or does not fit the strategies.
    """
    try:
        values: Mapping[str, dict[str, Any]] = json.loads((folder / VALUES).read_text("utf-8"))
        tensors = load_file(folder / TENSORS)
        for strategy in strategies:
            name = strategy.options.name
            own = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
            strategy.load_state_dict({**values[name], **own})
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"the strategies' state in {folder} cannot be read ({error}); train anew with --overwrite"
        ) from error
