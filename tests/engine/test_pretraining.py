"""A whole run of continual pre-training on T5: it learns, resumes exactly, and keeps loss and perplexity."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, T5ForConditionalGeneration

from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.errors import ModelError
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.interrupting import Heard, assert_same, stop

SENTINELS = 8


@pytest.fixture(scope="module")
def sentinel_t5(tmp_path_factory: pytest.TempPathFactory, flat_t5: Path) -> Path:
    """The toy T5 with sentinels, and with dropout, so that training draws random numbers of its own."""
    folder = tmp_path_factory.mktemp("sentinels")
    tokenizer = AutoTokenizer.from_pretrained(flat_t5)
    tokenizer.add_tokens([f"<extra_id_{number}>" for number in range(SENTINELS)], special_tokens=True)
    model = T5ForConditionalGeneration.from_pretrained(flat_t5, dropout_rate=0.1)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, sentinel_t5: Path) -> Recipe:
    """Two domains: texts that count up, and texts that count down."""
    folder = tmp_path_factory.mktemp("domains")
    domains = []
    for name, step in (("up", 1), ("down", -1)):
        draw = random.Random(name)
        for split, documents in (("train", 60), ("test", 12)):
            starts = [draw.randrange(37) for _ in range(documents)]
            texts = [" ".join(f"w{(start + step * n) % 37}" for n in range(12)) for start in starts]
            (folder / f"{name}-{split}.txt").write_text("\n\n".join(texts), "utf-8")
        files = {split: str(folder / f"{name}-{split}.txt") for split in ("train", "test")}
        domains.append({"name": name, "source": {"kind": "files", **files}})
    return Recipe.model_validate(
        {
            "name": "domains",
            "model": {"name": str(sentinel_t5)},
            "tasks": domains,
            "objective": {"kind": "pretraining", "block_tokens": 32},
            "strategies": [{"name": "replay", "share": 0.2}],
            "training": {"batch_size": 8, "learning_rate": 1e-2, "epochs": 4.0, "log_every": 1},
            "evaluation": {"tasks": "all"},
        }
    )


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(recipe, tmp_path_factory.mktemp("run") / "run")


def test_it_learns_each_domain(run: RunFolder) -> None:
    matrix = run.read_matrix()
    assert (matrix.metric, matrix.higher_is_better) == ("perplexity", False)
    assert matrix.zero_shot is not None
    assert (matrix.rows[0][0] or math.inf) < 0.8 * (matrix.zero_shot[0] or 0)
    assert (matrix.rows[1][1] or math.inf) < 0.8 * (matrix.rows[0][1] or 0)
    assert matrix.metrics()["bwt"].value == pytest.approx((matrix.rows[0][0] or 0) - (matrix.rows[1][0] or 0))


def test_counts_are_of_blocks_and_each_has_its_likelihood(run: RunFolder) -> None:
    # 12 documents of 12 words are 144 tokens, in blocks of 31 and an end of sequence.
    assert run.read_matrix().counts == [5, 5]
    records = [line for outcome in evaluate(run, stage="up", tasks=["up"]) for line in outcome.records()]
    assert len(records) == 5
    kept = (run.stage_folder(1, "up") / "predictions.jsonl").read_text("utf-8").splitlines()
    assert len(kept) == 10
    assert json.loads(kept[0]).keys() == {"task", "index", "place", "text", "nll", "tokens"}
    file, line = records[0]["place"].rsplit(":", 1)
    assert records[0]["text"].startswith(Path(file).read_text("utf-8").split("\n")[int(line) - 1].strip()[:5])
    nll, tokens = sum(record["nll"] for record in records), sum(record["tokens"] for record in records)
    assert math.exp(nll / tokens) == pytest.approx(run.read_matrix().rows[0][0])


def test_the_stages_keep_the_loss_too(run: RunFolder) -> None:
    loss, perplexity = (run.scores(metric).matrix for metric in ("loss", None))
    assert loss.metric == "loss"
    for own, other in zip(loss.rows, perplexity.rows, strict=True):
        assert [math.exp(value or 0) for value in own] == pytest.approx(other)


def test_resuming_inside_a_task_equals_never_having_stopped(recipe: Recipe, run: RunFolder, tmp_path: Path) -> None:
    stop(recipe, tmp_path / "stopped", "down", 5)
    heard = Heard()
    assert_same(train(recipe, tmp_path / "stopped", resume=True, listener=heard), run)
    assert heard.went_on_after == [5]


def test_a_model_that_cannot_be_pretrained_so_leaves_no_folder(recipe: Recipe, flat_t5: Path, tmp_path: Path) -> None:
    without = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": str(flat_t5)})})
    with pytest.raises(ModelError, match="has no sentinels"):
        train(without, tmp_path / "run")
    assert not (tmp_path / "run" / "env.json").exists()
