"""General data beside the tasks' own: what is mixed in, what is told of it, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from clkit.engine.fingerprints import examine_read
from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import ModelError, UsageError
from clkit.models.examples import encode
from clkit.models.loading import load_model
from clkit.models.objective import TextToText
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe
from tests.toy import ToyRecipe, toy_recipe


def replay(source: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"name": "replay", "share": None, "general": {"source": source, **values}}


def instructions(folder: Path, count: int = 40) -> dict[str, Any]:
    rows = [{"text": f"w{index % 30} w31", "label": f"w{index % 5} w2"} for index in range(count)]
    (folder / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "files", "train": str(folder / "general.jsonl")}


def documents(folder: Path) -> dict[str, Any]:
    (folder / "general.txt").write_text("\n\n".join(" ".join(f"w{n}" for n in range(20)) for _ in range(30)))
    return {"kind": "files", "train": str(folder / "general.txt")}


def test_instructions_are_as_they_are_written_and_counted_in_the_plan(tmp_path: Path, toy: ToyRecipe) -> None:
    source = instructions(tmp_path)
    recipe = toy(strategies=[replay(source, ratio=0.5, number=30)], prompt={"max_tokens": 64, "task_name": True})
    prepared = prepare(recipe)
    general = prepared.strategies[0].data["general"]
    written = [json.loads(line) for line in (tmp_path / "general.jsonl").read_text().splitlines()]
    assert len(general) == 30
    pairs = [(row["prompt"], row["answer"]) for row in general.to_list()]
    assert set(pairs) <= {(row["text"], row["label"]) for row in written}  # no task, options or `Answer:`
    plan = prepared.plan()
    assert plan.steps == {"first": 10, "second": 10}  # 24 examples and 12 in batches of 8, two epochs
    told = [remark for remark in plan.remarks if "general" in remark]
    assert told == [
        "strategies.replay.general: 30 examples to draw from",
        # Three tokens an answer, its end included; those of the labels are two, or three.
        "strategies.replay.general: 12 examples beside the 24 of 'first', 43% of the tokens that are learned",
    ]


def test_changed_general_data_are_noticed_and_a_run_goes_on_to_the_same_bytes(tmp_path: Path, toy: ToyRecipe) -> None:
    recipe = toy(strategies=[replay(instructions(tmp_path), ratio=0.5)])
    run = train(recipe, tmp_path / "run")
    shares = [line["general_share"] for line in run.log.read() if line["event"] == "step"]
    assert len(shares) == 20
    assert set(shares) == {12 / 36}
    assert run.environment()["read"]["strategies.replay.general.train"].startswith("40 examples")
    whole = [stage.payload["scores"] for stage in run.stages()]
    shutil.rmtree(run.stages()[-1].folder)
    again = train(recipe, run.path, resume=True)
    assert [stage.payload["scores"] for stage in again.stages()] == whole
    shutil.rmtree(run.stages()[-1].folder)
    (tmp_path / "general.jsonl").write_text('{"text": "w1", "label": "w2"}\n')
    with pytest.raises(UsageError, match=r"strategies\.replay\.general\.train \(.*general\.jsonl: 1 examples"):
        train(recipe, run.path, resume=True)
    changed = [found.path for found in examine_read(run) if found.state == "changed"]
    assert changed == ["strategies.replay.general.train"]


@pytest.mark.parametrize("family", ["decoder", "seq2seq"])
def test_plain_text_is_learned_as_in_pretraining_beside_examples_in_any_order(
    family: str, flat_llama: Path, flat_t5: Path
) -> None:
    model = ModelSection(name=str(flat_llama) if family == "decoder" else "embedded:tiny-t5")
    loaded = load_model(model, FullTuning(), [], TextToText(), {})
    text = "w1 w2 w3 w4 w5 w6" if family == "decoder" else "The parcel came late and the box was broken again."
    rows = [("w1 w2", "w3"), (None, text), ("w4", "w5"), (None, text)]
    examples = Dataset.from_dict(
        {"prompt": [row[0] for row in rows], "answer": [row[1] for row in rows], "task": ["t"] * 4}
    )
    encoded = encode(loaded, examples).to_list()
    own = encode(loaded, examples.select([0, 2])).to_list()
    assert [encoded[0], encoded[2]] == own
    assert encoded[1] == encoded[3] == encode(loaded, examples.select([1])).to_list()[0]
    ids, labels = encoded[1]["input_ids"], encoded[1]["labels"]
    whole = loaded.tokenizer(text)["input_ids"]
    if family == "decoder":
        assert ids == labels == whole
        return
    # What the sentinels of the input stand for is what follows them in the labels: together they are the text.
    end = loaded.tokenizer.eos_token_id
    sentinels = {loaded.tokenizer.convert_tokens_to_ids(f"<extra_id_{n}>") for n in range(20)}
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in labels[:-1]:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    filled = [one for token in ids for one in (spans[token] if token in sentinels else [token])]
    assert filled == whole
    assert labels[-1] == end


@pytest.mark.parametrize("objective", ["text_to_text", "pretraining"])
def test_text_beside_tasks_trains(tmp_path: Path, flat_llama: Path, objective: str) -> None:
    own = {"objective": {"kind": "pretraining", "block_tokens": 16}, "prompt": None}
    changes = own if objective == "pretraining" else {}
    recipe = toy_recipe(tmp_path, flat_llama, strategies=[replay(documents(tmp_path), ratio=0.25)], **changes)
    general = prepare(recipe).strategies[0].data["general"]
    words = sum(len(answer.split()) for answer in general["answer"])
    assert words == 30 * 20
    assert set(general["prompt"]) == ({""} if objective == "pretraining" else {None})
    run = train(recipe, tmp_path / "run")
    shares = [line["general_share"] for line in run.log.read() if line["event"] == "step"]
    assert len(shares) == sum(prepare(recipe).plan().steps.values())
    assert 0.15 < min(shares) <= max(shares) < 0.25


def test_what_cannot_be_is_refused_before_anything_is_loaded(tmp_path: Path, toy: ToyRecipe, flat_t5: Path) -> None:
    strategies = [replay({"kind": "files", "train": str(tmp_path / "none.jsonl")})]
    assert missing_inputs(toy(strategies=strategies)) == [
        f"strategies.replay.general.source.train: no file '{tmp_path}/none.jsonl'; put it there, or write the path "
        "of yours"
    ]
    prose: dict[str, Any] = {"name": "x", "model": {"name": str(flat_t5)}, "benchmark": {"name": "sample"}}
    prose["strategies"] = [replay({"kind": "prose"})]
    with pytest.raises(ValueError, match=r"general\.texts measures what the model still knows on the same text"):
        Recipe.model_validate(prose | {"general": {"texts": "builtin"}})
    with pytest.raises(ValueError, match="classification learns nothing but the tasks' labels"):
        Recipe.model_validate(prose | {"objective": {"kind": "classification"}})
    task = {"name": "a", "source": {"kind": "files", "train": "a.csv"}}
    with pytest.raises(ValueError, match=r"tasks\.a\.source\.test: missing \(needed: file to test on\)"):
        Recipe.model_validate(prose | {"benchmark": None, "tasks": [task]})
    with pytest.raises(ModelError, match=r"^strategies\.replay\.general: the tokenizer has no sentinels"):
        prepare(toy(strategies=[replay({"kind": "prose"})]))
