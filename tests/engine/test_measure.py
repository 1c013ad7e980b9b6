"""`clkit measure`: models that were trained before give the matrix that the run of their training has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clkit.cli.measure import measure as verb
from clkit.engine.evaluate import evaluate
from clkit.engine.measure import _Measured, measure
from clkit.engine.sequence import train
from clkit.errors import ModelError, RunError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.report.answers import read_examples
from clkit.run.doctor import examine, is_whole
from clkit.run.folder import RunFolder
from tests.cli.verbs import call
from tests.toy import Finished, ToyRecipe, toy_recipe, write_task

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("flat_t5", {"general": {"texts": "builtin"}, "strategies": [{"name": "replay", "share": 0.5}]}),
    "adapters": ("flat_llama", {"tuning": {"method": "lora", "rank": 2}}),
    "classifiers": ("toy_roberta", {"objective": {"kind": "classification"}, "tuning": {"method": "lora", "rank": 2}}),
}


def models_of(run: RunFolder) -> list[Path]:
    parts = [stage.folder for stage in run.stages() if stage.index > 0]
    return [next(folder / name for name in ("model", "adapter") if (folder / name).is_dir()) for folder in parts]


@pytest.fixture(params=KINDS)
def trained(request: pytest.FixtureRequest, toy_tasks: Path, finished: Finished) -> tuple[Recipe, RunFolder]:
    model, changes = KINDS[request.param]
    recipe = toy_recipe(toy_tasks, request.getfixturevalue(model), **changes)
    return recipe, finished(recipe)


def test_the_matrix_is_that_of_the_training(trained: tuple[Recipe, RunFolder], tmp_path: Path) -> None:
    recipe, run = trained
    measured = measure(recipe, models_of(run), tmp_path / "measured")
    assert measured.read_matrix() == run.read_matrix()
    assert is_whole([*examine(measured.path)])
    for ours, theirs in zip(measured.stages(), run.stages(), strict=True):
        assert ours.payload["scores"] == theirs.payload["scores"]
        assert ours.payload.get("general") == theirs.payload.get("general")
    assert read_examples(measured) == read_examples(run)


def test_what_was_measured_is_not_measured_again(
    trained: tuple[Recipe, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the test of the second model, gone on with: the same matrix, and no row twice."""
    recipe, run = trained
    models, tested = models_of(run), []
    original = _Measured._evaluate

    def evaluate_or_die(self: _Measured, name: str, *rest: Any) -> Any:
        tested.append(name)
        if name == "second" and tested.count(name) == 1:
            raise KeyboardInterrupt
        return original(self, name, *rest)

    monkeypatch.setattr(_Measured, "_evaluate", evaluate_or_die)
    with pytest.raises(KeyboardInterrupt):
        measure(recipe, models, tmp_path / "measured")
    with pytest.raises(UsageError, match=r"is not what was measured after 'first'"):
        measure(recipe, models[::-1], tmp_path / "measured", resume=True)
    measured = measure(recipe, models, tmp_path / "measured", resume=True)
    assert measured.read_matrix() == run.read_matrix()
    assert tested == ["zero-shot", "first", "second", "second"]
    assert is_whole([*examine(measured.path)])
    assert measure(recipe, models, tmp_path / "measured", resume=True).read_matrix() == run.read_matrix()
    assert len(tested) == 4
    with pytest.raises(UsageError, match="these keys differ: seed"):
        measure(recipe.model_copy(update={"seed": 8}), models, tmp_path / "measured", resume=True)
    with pytest.raises(UsageError, match=r"holds a training; go on with `clkit train --resume`"):
        measure(recipe, models, run.path, resume=True)


def test_next_months_model_is_one_more_row(toy: ToyRecipe, toy_tasks: Path, finished: Finished, tmp_path: Path) -> None:
    tasks = [write_task(toy_tasks, name) for name in ("first", "second", "third")]
    run = finished(toy(tasks=tasks))
    models = models_of(run)
    measured = measure(toy(), models[:2], tmp_path / "measured")
    before = measured.stages()
    measured = measure(toy(tasks=tasks), models, tmp_path / "measured", resume=True)
    assert measured.stages()[:3] == before
    assert measured.read_matrix().rows == run.read_matrix().rows


def test_one_model_is_the_last_row(toy: ToyRecipe, finished: Finished, tmp_path: Path) -> None:
    run = finished(toy())
    (tmp_path / "mine.yaml").write_text(recipe_yaml(toy()), "utf-8")
    arguments = ["--model", str(models_of(run)[-1]), "--run", str(tmp_path / "one"), "--json"]
    result = call(verb, str(tmp_path / "mine.yaml"), *arguments)
    assert result.exception is None
    (said,) = json.loads(result.stdout)["runs"]
    rows = run.read_matrix().rows
    assert said["matrix"]["rows"] == [[None, None], rows[-1]]
    assert said["metrics"]["average_accuracy"]["value"] == sum(score or 0 for score in rows[-1]) / 2
    assert said["metrics"]["bwt"]["value"] is None


def test_a_measured_run_neither_goes_on_nor_has_a_model(toy: ToyRecipe, finished: Finished, tmp_path: Path) -> None:
    models = models_of(finished(toy()))
    recipe = toy(evaluation={"zero_shot": False})
    measured = measure(recipe, models, tmp_path / "measured")
    with pytest.raises(UsageError, match="clkit measure"):
        train(Recipe.load(measured.recipe_path), measured.path, resume=True)
    with pytest.raises(RunError, match=rf"clkit measure keeps none; it read {models[0]}"):
        evaluate(measured, stage="1")


def test_what_cannot_be_measured_leaves_no_folder(
    toy: ToyRecipe, toy_tasks: Path, flat_t5: Path, tmp_path: Path
) -> None:
    for models, kind, message in (
        ([flat_t5] * 3, UsageError, "3 models for 2 tasks"),
        ([tmp_path / "nowhere"], ModelError, "nowhere does not exist"),
        ([toy_tasks], ModelError, "has no config.json"),
    ):
        with pytest.raises(kind, match=message):
            measure(toy(), models, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="protocol: multi_task"):
        measure(toy(protocol="multi_task"), [flat_t5], tmp_path / "run")
    damaged = tmp_path / "damaged"
    shutil.copytree(flat_t5, damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged has damaged weights"):  # although the first one could be tested
        measure(toy(), [flat_t5, damaged], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_without_a_head_for_the_labels_is_refused(
    toy_tasks: Path, toy_roberta: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(toy_tasks, toy_roberta, objective={"kind": "classification"})
    with pytest.raises(ModelError, match="has no head for the labels"):
        measure(recipe, [toy_roberta], tmp_path / "run")


@pytest.mark.parametrize("heads", ["shared", "per_task"])
def test_cells_of_tasks_that_a_head_does_not_know_are_null(
    toy_tasks: Path, toy_roberta: Path, finished: Finished, tmp_path: Path, heads: str
) -> None:
    """The head of the first task's model answers the first task alone, though all are to be tested."""
    everything = {"objective": {"kind": "classification", "heads": heads}, "evaluation": {"tasks": "all"}}
    recipe = toy_recipe(toy_tasks, toy_roberta, **everything)
    run = finished(recipe)
    rows = measure(recipe, models_of(run), tmp_path / "measured").read_matrix().rows
    (own, _), last = run.read_matrix().rows
    assert rows == [[own, None], last]
    assert measure(recipe, models_of(run)[:1], tmp_path / "one").read_matrix().rows == [[None, None], [own, None]]
