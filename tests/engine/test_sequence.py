"""The sequence over tasks: rows, folders, repeatability, going on after a finished task."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.errors import ClkitError, ModelError, RunError, UsageError
from clkit.events import Listener, Plan
from clkit.models.loading import load_model
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.run.doctor import examine, is_whole
from clkit.run.folder import RunFolder
from clkit.run.lock import LOCK_FILE, Holder, locked
from clkit.strategies.builtin.migu import MIGU
from tests.toy import Finished, ToyRecipe, toy_recipe

MIGU_UPDATE = [{"name": "migu", "threshold": 0.5, "mask": "update"}]
LORA = {"method": "lora", "rank": 2}


@pytest.fixture
def plain(tmp_path: Path, toy: ToyRecipe, finished: Finished) -> tuple[Recipe, RunFolder]:
    """A recipe without strategies, and a copy of its finished run."""
    recipe = toy()
    shutil.copytree(finished(recipe).path, tmp_path / "run")
    return recipe, RunFolder.open(tmp_path / "run")


def weights(folder: Path, recipe: Recipe, stage: int = -1) -> dict[str, torch.Tensor]:
    finished = RunFolder.open(folder).stages()
    learned = [done.folder for done in finished if 0 < done.index <= finished[stage].index]
    loaded = load_model(recipe.model, recipe.tuning, learned)
    return dict(loaded.model.named_parameters())


def test_a_run_holds_what_the_reference_says(toy: ToyRecipe, finished: Finished) -> None:
    run = finished(toy(strategies=MIGU_UPDATE))
    matrix = run.read_matrix()
    assert matrix.tasks == ["first", "second"]
    assert [[score is None for score in row] for row in matrix.rows] == [[False, True], [False, False]]
    assert matrix.zero_shot is not None
    assert matrix.counts == [24, 24]
    assert matrix.guesses["uniform"] == [1 / len(task.labels or ()) for task in load_tasks(toy())]
    assert run.stages()[-1].payload["matrix"]["chance"] == matrix.chance
    assert sorted(path.name for path in run.path.iterdir()) == [
        "env.json", "log.jsonl", "matrix.json", "metrics.json", "recipe.yaml", "tasks",
    ]  # fmt: skip
    second = run.path / "tasks" / "02-second"
    assert {"model", "predictions.jsonl", "done.json"} <= {path.name for path in second.iterdir()}
    lines = [json.loads(line) for line in (second / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 48
    for line in lines:
        file, row = line["place"].rsplit(":", 1)
        record = json.loads(Path(file).read_text("utf-8").splitlines()[int(row) - 1])
        assert (line["text"], line["gold"]) == (record["text"], record["label"])
    for name in matrix.tasks:
        own = [line["correct"] for line in lines if line["task"] == name]
        assert sum(own) / len(own) == matrix.rows[1][matrix.tasks.index(name)]
    steps = [line for line in run.log.read() if line["event"] == "step"]
    assert {"task_loss", "grad_norm", "learning_rate"} <= set(steps[0])
    assert "migu_masked_share" not in steps[0]  # the first task is left unmasked
    assert steps[-1]["migu_masked_share"] == pytest.approx(0.5, abs=0.01)


def test_training_learns(tmp_path: Path, flat_t5: Path) -> None:
    matrix = train(toy_recipe(tmp_path, flat_t5, training={"epochs": 12.0}), tmp_path / "run").read_matrix()
    assert matrix.rows[0][0] > 0.9
    assert matrix.rows[1][1] > 0.9
    assert matrix.zero_shot[0] < 0.6


@pytest.mark.parametrize("tuning", [{"method": "full"}, LORA], ids=["full", "lora"])
def test_the_same_recipe_gives_the_same_bytes(
    tmp_path: Path, toy: ToyRecipe, finished: Finished, tuning: dict[str, Any]
) -> None:
    recipe = toy(strategies=MIGU_UPDATE, tuning=tuning)
    before, again = finished(recipe), train(recipe, tmp_path / "again")
    assert (before.path / "matrix.json").read_bytes() == (again.path / "matrix.json").read_bytes()
    a, b = weights(before.path, recipe), weights(again.path, recipe)
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = recipe.model_copy(update={"seed": 4})
    train(other, tmp_path / "c")
    c = weights(tmp_path / "c", other)
    assert not all(torch.equal(a[name], c[name]) for name in a)  # the control


@pytest.mark.parametrize("tuning", [{"method": "full"}, LORA], ids=["full", "lora"])
def test_resuming_after_a_finished_task_equals_never_having_stopped(
    tmp_path: Path, toy: ToyRecipe, finished: Finished, monkeypatch: pytest.MonkeyPatch, tuning: dict[str, Any]
) -> None:
    recipe = toy(strategies=MIGU_UPDATE, tuning=tuning)
    whole = finished(recipe)

    learn = MIGU.before_task

    def crash_in_second(self: MIGU, context: Any) -> None:
        if context.task_index == 1:
            raise ClkitError("power failure")
        learn(self, context)

    monkeypatch.setattr(MIGU, "before_task", crash_in_second)
    with pytest.raises(ClkitError, match="power failure"):
        train(recipe, tmp_path / "stopped")
    assert len(RunFolder.open(tmp_path / "stopped").read_matrix().rows) == 1
    first_done = (tmp_path / "stopped" / "tasks" / "01-first" / "done.json").stat().st_mtime_ns
    monkeypatch.undo()

    train(recipe, tmp_path / "stopped", resume=True)
    assert (tmp_path / "stopped" / "tasks" / "01-first" / "done.json").stat().st_mtime_ns == first_done
    for file in ("matrix.json", "metrics.json"):
        assert (tmp_path / "stopped" / file).read_bytes() == (whole.path / file).read_bytes()
    a, b = weights(whole.path, recipe), weights(tmp_path / "stopped", recipe)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again(plain: tuple[Recipe, RunFolder]) -> None:
    recipe, run = plain
    before = {path: path.stat().st_mtime_ns for path in (run.path / "tasks").rglob("*")}
    train(recipe, run.path, resume=True)
    assert {path: path.stat().st_mtime_ns for path in (run.path / "tasks").rglob("*")} == before


def test_an_existing_folder_and_a_changed_recipe_are_refused(toy: ToyRecipe, plain: tuple[Recipe, RunFolder]) -> None:
    recipe, run = plain
    with pytest.raises(UsageError, match=r"--resume.*--overwrite"):
        train(recipe, run.path)
    changed = toy(strategies=MIGU_UPDATE)
    with pytest.raises(UsageError, match="these keys differ: strategies"):
        train(changed, run.path, resume=True)
    assert "migu_masked_share" in train(changed, run.path, overwrite=True).log.read()[-2]


def test_a_recipe_that_cannot_load_neither_leaves_a_folder_nor_empties_one(
    tmp_path: Path, plain: tuple[Recipe, RunFolder]
) -> None:
    broken = toy_recipe(tmp_path, tmp_path / "nowhere")
    with pytest.raises(ModelError):
        train(broken, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    run = plain[1].path
    before = sorted(run.rglob("*"))
    with pytest.raises(ModelError):
        train(broken, run, overwrite=True)
    assert sorted(run.rglob("*")) == before


def test_a_strategy_that_cannot_work_with_the_model_is_refused_before_anything_is_trained(
    tmp_path: Path, flat_t5: Path
) -> None:
    for strategy in ({"name": "migu", "layers": ["query"]}, {"name": "osf", "preserved": 0.01}):
        with pytest.raises(ClkitError, match=rf"^strategies\.{strategy['name']}\."):
            train(toy_recipe(tmp_path, flat_t5, strategies=[strategy]), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("replay", [{"share": 0.5}, {"selection": "reservoir", "capacity": 9, "ratio": 0.7}, None])
def test_the_plan_has_the_steps_that_are_trained(replay: dict[str, Any] | None, tmp_path: Path, flat_t5: Path) -> None:
    planned: dict[str, int] = {}
    taken: dict[str, int] = {}

    class Steps(Listener):
        def started(self, plan: Plan) -> None:
            planned.update(plan.steps)

        def task_started(self, task: str, index: int, steps: int) -> None:
            taken[task] = steps

    strategies = [{"name": "replay", **replay}] if replay else []
    train(toy_recipe(tmp_path, flat_t5, strategies=strategies, **SHORT), tmp_path / "run", listener=Steps())
    assert planned == taken
    assert (planned["second"] > planned["first"]) is bool(strategies)


def test_what_is_tested_after_each_task(tmp_path: Path, flat_t5: Path) -> None:
    def measured(tasks: str) -> list[list[bool]]:
        recipe = toy_recipe(
            tmp_path, flat_t5, evaluation={"tasks": tasks, "zero_shot": False}, training={"epochs": 1.0}
        )
        matrix = train(recipe, tmp_path / tasks).read_matrix()
        assert matrix.zero_shot is None
        return [[score is not None for score in row] for row in matrix.rows]

    assert measured("seen") == [[True, False], [True, True]]
    assert measured("all") == [[True, True], [True, True]]
    assert measured("final") == [[False, False], [True, True]]


@pytest.mark.parametrize("tuning", [{"method": "full"}, LORA], ids=["full", "lora"])
def test_a_saved_stage_answers_as_the_model_in_memory_did(
    tmp_path: Path, flat_t5: Path, tuning: dict[str, Any]
) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, strategies=MIGU_UPDATE, tuning=tuning, evaluation={"tasks": "all"})
    run = train(recipe, tmp_path / "run")
    matrix = run.read_matrix()
    for stage, row in (("zero-shot", matrix.zero_shot), ("first", matrix.rows[0]), (None, matrix.rows[1])):
        answers = evaluate(run, stage=stage)
        assert [answer.exact_match for answer in answers] == row
    kept = [json.loads(line) for line in (run.path / "tasks/02-second/predictions.jsonl").read_text().splitlines()]
    again = [record for answer in evaluate(run) for record in answer.records()]
    assert again == kept


@pytest.mark.parametrize("less", [{"precision": "bf16"}, {"matmul": "medium"}], ids=["bf16", "matmul"])
@pytest.mark.parametrize("tuning", [{"method": "full"}, LORA], ids=["full", "lora"])
def test_tests_are_in_float32_where_training_is_not(
    tmp_path: Path, flat_t5: Path, tuning: dict[str, Any], less: dict[str, str]
) -> None:
    """Otherwise a stage that is loaded again would not answer as it did."""
    loss = {"metric": "loss", "tasks": "all"}
    recipe = toy_recipe(tmp_path, flat_t5, tuning=tuning, training=less, evaluation=loss)
    run = train(recipe, tmp_path / "run")
    for stage in run.stages():
        again = [answer.scores["loss"] for answer in evaluate(run, stage=str(stage.index))]
        assert again == stage.payload["row"]


def test_only_the_last_model_is_kept_where_asked(tmp_path: Path, flat_t5: Path) -> None:
    ewc = [{"name": "ewc", "examples": 2}]
    run = train(toy_recipe(tmp_path, flat_t5, saving={"models": "last"}, strategies=ewc), tmp_path / "run")
    first = run.path / "tasks" / "01-first"  # what EWC keeps is twice as large as the model
    assert sorted(path.name for path in first.iterdir()) == ["done.json", "predictions.jsonl", "trained.json"]
    assert evaluate(run, tasks=["second"])[0].exact_match == run.read_matrix().rows[1][1]
    with pytest.raises(RunError, match="was not kept"):
        evaluate(run, stage="first")
    with pytest.raises(RunError, match=r"no finished stage 'third' \(finished: zero-shot, 1-first, 2-second\)"):
        evaluate(run, stage="third")


def test_a_lora_adapter_loads_in_stock_peft(toy: ToyRecipe, finished: Finished, flat_t5: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    recipe = toy(strategies=MIGU_UPDATE, tuning=LORA)
    run = finished(recipe)
    stock = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(flat_t5), run.stages()[-1].folder / "adapter"
    )
    ours = weights(run.path, recipe)
    found = dict(stock.named_parameters())
    assert any(found[name].abs().sum() > 0 for name in found if "lora_B" in name)
    assert all(torch.equal(found[name], ours[name]) for name in found if "lora_" in name)


def test_a_half_written_stage_is_trained_again(plain: tuple[Recipe, RunFolder]) -> None:
    recipe, run = plain
    whole = (run.path / "matrix.json").read_bytes()
    (run.path / "tasks" / "02-second" / "done.json").unlink()
    shutil.rmtree(run.path / "tasks" / "02-second" / "model")
    train(recipe, run.path, resume=True)
    assert (run.path / "matrix.json").read_bytes() == whole
    assert (run.path / "tasks" / "02-second" / "model").is_dir()


class Heard(Listener):
    """Remembers the remarks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def noted(self, remark: str) -> None:
        self.remarks.append(remark)


SHORT: dict[str, Any] = {"training": {"epochs": 1.0}, "evaluation": {"zero_shot": False}}


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, **SHORT)
    with locked(tmp_path / "run"), pytest.raises(RunError, match="run is being written by process"):
        train(recipe, tmp_path / "run")
    run = train(recipe, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for flags in ({"resume": True}, {"overwrite": True}):
        with locked(run.path), pytest.raises(RunError, match="run is being written by process"):
            train(recipe, run.path, **flags)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_the_lock_of_a_dead_process_is_taken_over_with_a_word(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, **SHORT)
    (tmp_path / "run").mkdir()
    dead = replace(Holder.this_process(), pid=4711)
    (tmp_path / "run" / LOCK_FILE).write_text(json.dumps(asdict(dead)))
    heard = Heard()
    run = train(recipe, tmp_path / "run", listener=heard)
    assert heard.remarks == [f"{run.path}: took over the lock of {dead}, which ended without giving it back"]
    assert not (run.path / LOCK_FILE).exists()
    assert is_whole(list(examine(run.path)))


def test_resuming_from_damage_is_refused_until_the_stage_is_removed(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, strategies=MIGU_UPDATE, **SHORT)
    run = train(recipe, tmp_path / "run")
    first, second = (stage.folder for stage in run.stages())
    whole = (run.path / "matrix.json").read_bytes()
    shutil.rmtree(second)
    second.mkdir()
    weights_file = first / "model" / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(RunError, match=r"01-first/model/model\.safetensors is changed .* remove .*01-first"):
        train(recipe, run.path, resume=True)
    assert second.exists()  # nothing was discarded
    shutil.rmtree(first)
    train(recipe, run.path, resume=True)
    assert (run.path / "matrix.json").read_bytes() == whole
    assert is_whole(list(examine(run.path)))


def test_what_does_not_decide_the_result_may_differ_on_resuming(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, **SHORT)
    whole = train(recipe, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    shutil.rmtree(run.stages()[-1].folder)
    changed = toy_recipe(
        tmp_path,
        flat_t5,
        training={"epochs": 1.0, "log_every": 3},
        evaluation=SHORT["evaluation"],
        saving={"models": "last"},
    )
    train(changed, run.path, resume=True)
    assert ((run.path / "matrix.json").read_bytes(), run.recipe_yaml()) == (
        (whole.path / "matrix.json").read_bytes(),
        whole.recipe_yaml(),
    )
    a, b = weights(whole.path, recipe), weights(run.path, recipe)
    assert all(torch.equal(a[name], b[name]) for name in a)
    (resumed,) = [line for line in run.log.read() if line["event"] == "resumed"]
    assert resumed["differing"] == ["training.log_every", "saving.models"]
    assert not (run.path / "tasks" / "01-first" / "model").exists()
    assert is_whole(list(examine(run.path)))
