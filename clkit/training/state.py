"""The strategies' state on disk: tensors as safetensors, everything else as JSON. No pickle is ever read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clkit.errors import RunError, StrategyError, first_line
from clkit.run.atomic import write_atomically
from clkit.run.seal import TENSORS, VALUES
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call


def save_strategies(strategies: Sequence[Strategy], folder: Path, hook: str = "state_dict") -> None:
    """Write every strategy's state between tasks, or inside one (`task_state_dict`), into a folder."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for strategy in strategies:
        name = strategy.options.name
        values[name] = {}
        state = call(strategy, hook, gives=Mapping)
        if any(not isinstance(key, str) for key in state):
            raise StrategyError(f"strategies.{name}: its state has keys that are no text; name what it keeps")
        for key, value in state.items():
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
    state = call(strategy, "state_dict", gives=Mapping)
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    values = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
    size = sum(tensor.nbytes for tensor in tensors) + len(json.dumps(values).encode()) * bool(values)
    told = call(strategy, "kept", gives=str)
    return f"{told or 'its state'}, {size:,} bytes" if size else told or "nothing: it needs the model alone"


def _json(value: Any, what: str) -> Any:
    if (strange := _not_json(value)) is not None:
        raise StrategyError(f"{what} holds {strange}, which is no tensor and does not come back from JSON as it was")
    return value


def _not_json(value: Any) -> str | None:
    """What JSON has not, or gives back as something else: sets, tuples, keys that are no text; or None."""
    if isinstance(value, dict):
        strange = next((f"the key {key!r}" for key in value if not isinstance(key, str)), None)
        return strange or next(filter(None, map(_not_json, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(_not_json, value)), None)
    return None if value is None or isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def load_strategies(strategies: Sequence[Strategy], folder: Path, hook: str = "load_state_dict") -> None:
    """Give every strategy back the state that `save_strategies` wrote between tasks, or inside one.

    Raises:
        RunError: the state is missing, or a strategy does not know it.
        StrategyError: a strategy fails to take it.
    """
    try:
        values: Mapping[str, dict[str, Any]] = json.loads((folder / VALUES).read_text("utf-8"))
        # Cloned, because on a CPU the last bit of a matrix product can hang on where in memory a tensor lies.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}
    except (OSError, ValueError) as error:
        raise RunError(
            f"the strategies' state in {folder} cannot be read ({error}); train anew with --overwrite"
        ) from error
    for strategy in strategies:
        name = strategy.options.name
        own = {key.removeprefix(f"{name}/"): one for key, one in tensors.items() if key.startswith(f"{name}/")}
        try:
            call(strategy, hook, {**values[name], **own}, passing=(KeyError, ValueError))
        except (KeyError, ValueError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise RunError(
                f"strategies.{name}: does not know the state in {folder} ({reason}); go on with the code and "
                "options that wrote it, or train anew in another folder (--run DIR)"
            ) from error
