"""`clkit predict`: prompts and answers are those of the run's own test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from clkit.cli import app
from clkit.cli.predict import predict
from clkit.engine.sequence import train
from clkit.errors import ClkitError, DataError, ModelError, UsageError
from clkit.report.answers import read_examples
from clkit.results.scores import without_texts
from clkit.run.folder import RunFolder
from clkit.tasks.prompts import build_prompt
from tests.cli.verbs import call
from tests.toy import Finished, as_conversations, toy_recipe, write_task

LEARNING = {"epochs": 6.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "seq2seq": ("flat_t5", {"prompt": {"task_name": True}, "tuning": {"method": "lora", "rank": 2}}),
    "decoder": ("flat_llama", {"evaluation": {"answer": "both", "batch_size": 7}}),
    "classifier": ("toy_roberta", {"objective": {"kind": "classification"}, "prompt": {}}),
}


@pytest.fixture(params=MODELS)
def run(request: pytest.FixtureRequest, toy_tasks: Path, finished: Finished) -> RunFolder:
    model, changes = MODELS[request.param]
    return finished(toy_recipe(toy_tasks, request.getfixturevalue(model), training=LEARNING, **changes))


@pytest.fixture
def t5_run(toy_tasks: Path, flat_t5: Path, finished: Finished) -> RunFolder:
    return finished(toy_recipe(toy_tasks, flat_t5, training=LEARNING, **MODELS["seq2seq"][1]))


def said(run: RunFolder, *arguments: str) -> list[dict[str, Any]]:
    result = call(predict, str(run.path), *arguments, "--json")
    if result.exception is not None:
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_texts_of_the_test_get_its_answers(run: RunFolder, tmp_path: Path) -> None:
    for number, stage in enumerate(run.stages()[1:], start=1):
        lines = [json.loads(line) for line in (stage.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
        for task in {line["task"] for line in lines}:
            own = [line for line in lines if line["task"] == task]
            file = tmp_path / "in.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in own), "utf-8")
            found = said(run, "--file", str(file), "--task", task, "--stage", str(number), "--scores")
            assert [one["prediction"] for one in found] == [one["prediction"] for one in own]
            assert [one["text"] for one in found] == [one["text"] for one in own]
            assert [one["place"] for one in found] == [f"{file}:{line}" for line in range(1, len(own) + 1)]
            assert [one.get("ranked") for one in found] == [one.get("ranked") for one in own]
            for one in found:
                assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-5)
                likeliest = one.get("ranked", one["prediction"] if "classification" in run.recipe_yaml() else None)
                assert likeliest in (None, max(one["scores"], key=one["scores"].get))


def test_what_was_said_before_is_recorded_shown_asked_again_and_missed(
    toy_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def turns_of(place: int) -> list[tuple[str, str]]:
        return [("system", "w3"), *([("user", f"w{place}"), ("assistant", "w2")] if place % 2 else [])]

    task = as_conversations(write_task(tmp_path, "first", examples=8), turns_of)
    run = train(toy_recipe(tmp_path, toy_t5, tasks=[task], training={"epochs": 1.0}), tmp_path / "run")
    records = [json.loads(line) for line in (run.stages()[-1].folder / "predictions.jsonl").read_text().splitlines()]
    for place, record in enumerate(records):
        assert [(turn["role"], turn["content"]) for turn in record["turns"]] == turns_of(place)
        assert record["text"].startswith("w")
    examples = read_examples(run)
    assert examples[1].text == f"system: w3\nuser: w1\nassistant: w2\n{records[1]['text']}"
    assert "turns" not in without_texts(records[1], ["x"])
    first = run.stages()[0].folder / "predictions.jsonl"
    whole = first.read_text("utf-8")
    first.write_text(re.sub(r'"turns": \[.*?\], ', "", whole), "utf-8")  # as an earlier clkit wrote it
    assert [len(example.answers) for example in read_examples(run)] == [2] * 8
    first.write_text(whole, "utf-8")

    remark = (
        "task 'first' was learned from conversations, and this is asked without the turns before it; give them with"
    )
    for given, heard in ((["w6 w1"], True), (["--file", task["source"]["test"]], False)):
        result = call(predict, str(run.path), "--task", "first", *given, "--json")
        assert result.exception is None
        assert (remark in " ".join(result.stderr.split())) is heard
    again = [json.loads(line)["prediction"] for line in result.stdout.splitlines()]
    assert again == [record["prediction"] for record in records]


def test_scores_are_what_stock_transformers_computes(toy_tasks: Path, flat_t5: Path, finished: Finished) -> None:
    run = finished(toy_recipe(toy_tasks, flat_t5))
    (found,) = said(run, "w6 w11", "--task", "second", "--scores")
    folder = run.stages()[-1].folder / "model"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Option: w3 w4, w5 \nw6 w11\nAnswer:", return_tensors="pt").input_ids
    sums = []
    for label in ("w3 w4", "w5"):
        target = tokenizer(label, return_tensors="pt").input_ids
        sums.append(-model(input_ids=ids, labels=target).loss.detach() * target.shape[1])
    expected = torch.stack(sums).softmax(0).tolist()
    assert found["scores"] == pytest.approx(dict(zip(("w3 w4", "w5"), expected, strict=True)), abs=1e-5)


def test_without_a_task_the_text_stands_alone(t5_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def noting(*arguments: Any) -> Any:
        prompts.append(str(build_prompt(*arguments)))
        return build_prompt(*arguments)

    monkeypatch.setattr("clkit.models.examples.build_prompt", noting)
    (found,) = said(t5_run, "w6 w11")
    assert set(prompts) == {"w6 w11\nAnswer:"}
    assert found["task"] is None
    assert "scores" not in found
    said(t5_run, "w6 w11", "--task", "first")
    assert prompts[-1] == "Task:first\nDataset:first\nOption: w1, w2 \nw6 w11\nAnswer:"


def test_what_is_asked_is_held_against_no_training_data(t5_run: RunFolder) -> None:
    assert call(predict, str(t5_run.path), "w6 w11", "--task", "first").stderr == ""


def test_lines_for_a_person_and_standard_input(t5_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [one["prediction"] for one in said(t5_run, "w6 w11", "w7 w12", "--task", "first")]
    assert call(predict, str(t5_run.path), "w6 w11", "w7 w12", "--task", "first").stdout.splitlines() == texts
    arguments = ["predict", str(t5_run.path), "-", "--task", "first"]
    assert CliRunner().invoke(app.app, arguments, input="w6 w11\nw7 w12\n").stdout.splitlines() == texts
    assert "%" in call(predict, str(t5_run.path), "w6", "--task", "first", "--scores").stdout


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("w6", "--task", "frist"), UsageError, "unknown task 'frist', did you mean 'first'"),
        (("w6", "--scores"), UsageError, "--scores: name a --task"),
        ((), UsageError, "give either texts"),
        (("w6", " "), DataError, "text 2: the text is empty"),
        (("w6", "--stage", "3"), ClkitError, "no finished stage '3'"),
        (("--file", "nowhere.jsonl"), DataError, "nowhere.jsonl: no such file"),
    ],
)
def test_wrong_use_is_said(t5_run: RunFolder, arguments: tuple[str, ...], kind: type[ClkitError], message: str) -> None:
    with pytest.raises(kind, match=message):
        said(t5_run, *arguments)


def test_a_classifier_needs_a_task_and_positions_are_kept(
    toy_tasks: Path, toy_roberta: Path, finished: Finished
) -> None:
    run = finished(
        toy_recipe(toy_tasks, toy_roberta, objective={"kind": "classification"}, prompt={"max_tokens": 1000})
    )
    with pytest.raises(UsageError, match=r"--task: .*tasks: first, second"):
        said(run, "w6")
    with pytest.raises(ModelError, match="has 513"):
        said(run, "w6 " * 600, "--task", "first")
