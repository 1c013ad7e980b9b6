"""The same weights are not tested twice on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clkit.engine import evaluate as module
from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.errors import RunError
from clkit.events import Listener
from clkit.recipe.recipe import Recipe
from tests.engine.test_sequence import SHORT, Heard
from tests.interrupting import assert_same
from tests.toy import toy_recipe, write_task


def test_what_the_run_itself_tested_needs_no_model(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"zero_shot": True, "answer": "both"}
    run = train(toy_recipe(tmp_path, flat_t5, training={"epochs": 1.0}, evaluation=both), tmp_path / "run")
    asked: list[dict[str, Any]] = [{}, {"stage": "zero-shot"}, {"stage": "1", "tasks": ["first"]}]
    measured = [evaluate(run, **one) for one in asked]

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("a model is loaded")

    monkeypatch.setattr(module, "load_learned", refuse)
    heard = Heard()
    found = [evaluate(run, anew=False, listener=heard, **one) for one in asked]
    assert [[*one.records()] for tested in found for one in tested] == [
        [*one.records()] for tested in measured for one in tested
    ]
    assert [one.scores for tested in found for one in tested] == [one.scores for tested in measured for one in tested]
    assert heard.remarks == ["tested by the run itself, on the same data; --anew tests the saved model once more"] * 3
    other = Recipe.load(run.recipe_path, ["evaluation.answer=rank"])
    for changed in ({"anew": True}, {"recipe": other}, {"stage": "1", "tasks": ["second"]}):
        with pytest.raises(RuntimeError, match="a model is loaded"):
            evaluate(run, **{"anew": False, **changed})
    test_data = tmp_path / "first-test.jsonl"
    whole = test_data.read_text()
    test_data.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(RuntimeError, match="a model is loaded"):
        evaluate(run, anew=False)
    test_data.write_text(whole)
    (run.stages()[-1].folder / "predictions.jsonl").write_text("")
    with pytest.raises(RunError, match=r"predictions\.jsonl"):
        evaluate(run, anew=False)


def test_rows_without_a_gold_label_are_told_of(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, training={"epochs": 1.0})
    with (tmp_path / "first-test.jsonl").open("a") as rows:
        rows.write('{"text": "w3", "label": null}\n')
    told = "first: rows left out, without a gold label unless said otherwise: 1 test"
    trained, tested = Heard(), Heard()
    run = train(recipe, tmp_path / "run", listener=trained)
    assert told in next(line["remarks"] for line in run.log.read() if line["event"] == "planned")
    evaluate(run, listener=tested)
    assert told in tested.remarks


def test_tests_that_stand_in_training_data_are_told_of_where_the_run_read_these(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, training={"epochs": 1.0})
    first, second = (task.model_dump(mode="json") for task in recipe.task_recipes())
    run = train(recipe, tmp_path / "run")
    third = write_task(tmp_path, "third")
    told = {}
    for name, task in {"first": first, "another": {**first, "name": "another"}, "third": third}.items():
        own = {**task["source"], "test": task["source"]["train"]}
        heard = Heard()
        tasks = [{**task, "source": own}, second]
        evaluate(run, recipe=toy_recipe(tmp_path, flat_t5, tasks=tasks), tasks=[task["name"]], listener=heard)
        told[name] = sum("stand in the training examples" in remark for remark in heard.remarks)
    assert told == {"first": 1, "another": 1, "third": 0}


class Stops(Listener):
    """Stops the run before the last task is tested, and remembers the tests that were begun."""

    def __init__(self, stops: bool) -> None:
        self.stops, self.tested = stops, list[str]()

    def evaluating(self, task: str, examples: int) -> None:
        if self.stops and task == "second":
            raise KeyboardInterrupt
        self.tested.append(task)


def test_a_row_that_was_interrupted_goes_on_where_it_was(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, **SHORT)
    whole, stops, goes_on = train(recipe, tmp_path / "whole"), Stops(True), Stops(False)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", listener=stops)
    run = train(recipe, tmp_path / "run", resume=True, listener=goes_on)
    assert (stops.tested, goes_on.tested) == (["first", "first"], ["second"])
    assert_same(run, whole)
