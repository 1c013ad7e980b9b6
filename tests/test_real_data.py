"""Order 1 of the paper on real texts with a T5 that is pre-trained for real, in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe


@pytest.mark.parametrize(
    "tuning",
    [
        ["tuning.method=full", "training.learning_rate=1e-3"],
        ["tuning={method: lora, targets: [q, k, v, o, wi_0, wi_1, wo]}", "training.learning_rate=5e-3"],
    ],
    ids=["full", "lora"],
)
def test_order_1_learns_and_forgets(cl_benchmark: Path, t5_tiny: Path, tmp_path: Path, tuning: list[str]) -> None:
    recipe = Recipe.load(
        "t5_order1",
        [
            f"model.name={t5_tiny}",
            f"benchmark.folder={cl_benchmark}",
            "data.train_per_label=null",
            "data.train_per_task=32",
            "data.test_per_task=16",
            "prompt={max_tokens: 32, task_name: false, style: text}",
            *tuning,
            "training.batch_size=8",
            "training.epochs=3",
        ],
    )
    matrix = train(recipe, tmp_path / "run").read_matrix()
    assert matrix.tasks == ["dbpedia", "amazon", "yahoo", "agnews"]
    assert matrix.zero_shot is not None
    assert all(score is not None and score < 0.05 for score in matrix.zero_shot)
    learned = [float(row[index] or 0) for index, row in enumerate(matrix.rows)]
    kept = [float(score or 0) for score in matrix.rows[-1]]
    assert sum(learned) >= 0.3  # which takes answering with a task's labels, 14 of them in the first
    assert sum(learned[:-1]) - sum(kept[:-1]) >= 0.15
