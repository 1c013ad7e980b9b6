"""The strategies' state on disk: tensors as safetensors, everything else as JSON. No pickle is ever read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clkit.errors import RunError, StrategyError
from clkit.run.atomic import write_atomically
from clkit.run.seal import TENSORS, VALUES
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call

#: What reading a state raises where it is damaged, or where a strategy does not know it.
UNREADABLE = (OSError, ValueError, KeyError)


def save_strategies(strategies: Sequence[Strategy], folder: Path, hook: str = "state_dict") -> None:
    """Write every strategy's state between tasks, or inside one (`task_state_dict`), into a folder."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for strategy in strategies:
        name = strategy.options.name
        values[name] = {}
        for key, value in call(strategy, hook).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}/{key}"] = value.detach().contiguous().cpu()
            else:
                values[name][key] = _json(value, f"strategies.{name}: its state '{key}'")
    memory = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if memory[tensor.untyped_storage().data_ptr()] > 1:  # safetensors takes each piece of memory once
            tensors[name] = tensor.clone()
    save_file(tensors, folder / TENSORS)
    write_atomically(folder / VALUES, values_text(values))


def values_text(values: Mapping[str, Any]) -> str:
    """What all strategies keep beside tensors, as it is written."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def kept_by(strategy: Strategy) -> str:
    """What a strategy has kept of the tasks learned so far, and how many bytes that takes."""
    state = call(strategy, "state_dict")
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    values = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
    size = sum(tensor.nbytes for tensor in tensors) + len(json.dumps(values).encode()) * bool(values)
    told = call(strategy, "kept")
    return f"{told or 'its state'}, {size:,} bytes" if size else told or "nothing: it needs the model alone"


def _json(value: Any, what: str) -> Any:
    try:
        json.dumps(value)
        return value
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{what} is neither a tensor nor plain JSON ({error})") from error


def load_strategies(strategies: Sequence[Strategy], folder: Path, hook: str = "load_state_dict") -> None:
    """Give every strategy back the state that `save_strategies` wrote between tasks, or inside one.

    Raises:
        RunError: the state is missing or does not fit the strategies.
    """
    try:
        values: Mapping[str, dict[str, Any]] = json.loads((folder / VALUES).read_text("utf-8"))
        # Cloned, because on a CPU the last bit of a matrix product can hang on where in memory a tensor lies.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}
        for strategy in strategies:
            name = strategy.options.name
            own = {key.removeprefix(f"{name}/"): one for key, one in tensors.items() if key.startswith(f"{name}/")}
            call(strategy, hook, {**values[name], **own}, passing=UNREADABLE)
    except UNREADABLE as error:
        raise RunError(
            f"the strategies' state in {folder} cannot be read ({error}); train anew with --overwrite"
        ) from error
