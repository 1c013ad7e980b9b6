"""Order 1 of the paper on real texts with a T5 that is pre-trained for real, in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_order_1_learns_and_forgets(cl_benchmark: Path, t5_tiny: Path, tmp_path: Path, tuning: str) -> None:
    recipe = Recipe.load(
        "t5_order1",
        [
            f"model.name={t5_tiny}",
            f"benchmark.folder={cl_benchmark}",
            "data.train_per_label=null",
            "data.train_per_task=64",
            "data.test_per_task=24",
            "prompt={max_tokens: 128, task_name: false}",
            f"tuning.method={tuning}",
            # The adapter sits on q and v alone.
            "strategies.migu.layers=[attention]",
            f"training.learning_rate={'1e-3' if tuning == 'full' else '1e-2'}",
            "training.batch_size=16",
            "training.epochs=3",
        ],
    )
    matrix = train(recipe, tmp_path / "run").read_matrix()
    assert matrix.tasks == ["dbpedia", "amazon", "yahoo", "agnews"]
    assert matrix.zero_shot is not None
    assert all(score is not None and score < 0.05 for score in matrix.zero_shot)
    agnews = matrix.rows[3][3]
    assert agnews is not None
    assert agnews >= 0.2  # four labels: it has at least learned to answer with them
