"""Options that are passed on to the Trainer do what they say, only in training, and also in a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clkit.engine.evaluate import evaluate
from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.interrupting import stop
from tests.toy import toy_recipe

OPTIONS: dict[str, dict[str, Any]] = {"label_smoothing": {"label_smoothing": 0.2}, "neftune": {"neftune_alpha": 5.0}}
KINDS: dict[str, dict[str, Any]] = {
    "flat_llama": {"evaluation": {"metric": "loss"}},
    "toy_roberta": {"objective": {"kind": "classification", "heads": "per_task"}},
}


def weights(run: RunFolder) -> bytes:
    return (run.stages()[-1].folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("option", "model"), [("label_smoothing", "toy_roberta"), ("neftune", "flat_llama")])
def test_it_changes_training_and_nothing_else(
    option: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def recipe(**training: Any) -> Recipe:
        return toy_recipe(tmp_path, request.getfixturevalue(model), training=training, **KINDS[model])

    changed = recipe(**OPTIONS[option])
    plain, run = train(recipe(), tmp_path / "plain"), train(changed, tmp_path / "run")
    assert weights(plain) != weights(run)
    assert [answer.scores for answer in evaluate(run)] == [answer.scores for answer in evaluate(run)]
    metric = changed.metric
    assert [answer.scores[metric] for answer in evaluate(run)] == run.stages()[-1].payload["row"]
    stop(changed, tmp_path / "stopped", "second", 2)
    assert weights(train(changed, tmp_path / "stopped", resume=True)) == weights(run)


def test_noise_that_would_reach_no_embedding_is_refused(tmp_path: Path, flat_t5: Path) -> None:
    """The Trainer hooks on `shared`, and the stacks of a T5 have embedding layers of their own with its weight."""
    with pytest.raises(UsageError, match=r"training\.neftune_alpha: seq2seq models such as this one"):
        prepare(toy_recipe(tmp_path, flat_t5, training=OPTIONS["neftune"]))
