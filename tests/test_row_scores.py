"""The row score of `benchmarks/row_scores.py`, by what a run leaves on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import clkit
from tests.toy import toy_recipe


def test_the_rows_that_move_are_those_that_the_first_task_needs_least(
    flat_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    own = {"name": "row_scores:SparingRows", "mask": "update", "threshold": 0.5}
    run = clkit.train(toy_recipe(tmp_path, flat_t5, strategies=[own]), tmp_path / "run")
    first, second = (stage.folder for stage in run.stages() if stage.index > 0)
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    saved = load_file(first / "strategies.safetensors")
    kept = {f"{name.partition('/')[2]}.weight": needed for name, needed in saved.items()}
    assert len(kept) > 10
    for weight, needed in kept.items():
        moved = (before[weight] != after[weight]).any(dim=1)
        least = needed.argsort()[: len(needed) - len(needed) // 2]
        assert moved.sum() <= len(least)
        assert set(moved.nonzero().flatten().tolist()) <= set(least.tolist())
    assert any((before[weight] != after[weight]).any() for weight in kept)
