"""`clkit train`, `clkit eval` and `clkit inspect-magnitudes` as a user calls them, on the toy sequence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest

from clkit.cli.doctor import doctor
from clkit.cli.eval import evaluate
from clkit.cli.inspect_magnitudes import inspect_magnitudes
from clkit.cli.train import train
from clkit.errors import ModelError, UsageError
from clkit.recipe.shipped import recipes_folder
from clkit.recipe.written import recipe_yaml
from clkit.report.watching import Watched
from clkit.run.folder import RunFolder
from tests.cli.verbs import call
from tests.toy import Finished, ToyRecipe, toy_recipe


@pytest.fixture
def recipe(tmp_path: Path, flat_t5: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(recipe_yaml(toy_recipe(tmp_path, flat_t5, strategies=[{"name": "migu"}])), "utf-8")
    return str(path)


def test_train_prints_the_matrix_and_plain_lines(recipe: str, tmp_path: Path) -> None:
    done = call(train, recipe, "training.epochs=1", "--run", str(tmp_path / "run"))
    assert done.exit_code == 0, done.exception
    assert "after second" in done.stdout
    assert "average_accuracy" in done.stdout
    assert "\x1b" not in done.output
    assert "task 2 of 2, second: 3 steps" in done.stderr
    assert "second step 3/3" in done.stderr
    assert "migu_masked_share" in done.stderr


def test_train_json_is_one_document(recipe: str, tmp_path: Path) -> None:
    done = call(train, recipe, "training.epochs=1", "--run", str(tmp_path / "run"), "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["matrix"]["tasks"] == ["first", "second"]


def test_dry_run_shows_the_plan_and_writes_nothing(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = call(train, recipe, "--dry-run")
    assert done.exit_code == 0, done.exception
    assert "toy: 2 tasks, seq2seq model" in done.stdout
    assert ["first", "24", "24", "6", "–"] in [line.split() for line in done.stdout.splitlines()]
    assert sorted(tmp_path.iterdir()) == before
    plan = json.loads(call(train, recipe, "--dry-run", "--json").stdout)
    assert plan["steps"] == {"first": 6, "second": 6}
    assert plan["labels"] == [{"w1": 12, "w2": 12}, {"w3 w4": 12, "w5": 12}]
    prompt, answer = plan["samples"][0]
    assert prompt.startswith("Option: w1, w2 \nw6 ")
    assert prompt.endswith("\nAnswer:")
    assert answer == "w1"
    few = [
        "first, second: too few optimizer steps to learn much (6); more training.epochs, more rows or a smaller "
        "training.batch_size make more"
    ]
    assert [remark for remark in plan["remarks"] if not remark.startswith("migu: ")] == few
    longer = json.loads(call(train, recipe, "training.epochs=4", "--dry-run", "--json").stdout)
    assert longer["remarks"] == [remark for remark in plan["remarks"] if remark not in few]
    refused = call(train, recipe, "strategies.migu.threshold=0.001", "--dry-run")
    assert isinstance(refused.exception, UsageError)  # and not the error of a run that failed


def test_the_plan_tells_memory_and_time_or_what_to_change(recipe: str) -> None:
    here = call(train, recipe, "--dry-run").stdout
    assert re.search(
        r"^memory: about [\d.]+ MB of .* tokens: weights .*, optimizer .*, activations ", here, re.MULTILINE
    )
    assert re.search(r"^time: about \S+ s a step$", here, re.MULTILINE)
    there = call(train, recipe, "training.micro_batch_size=8", "--dry-run", "--device", "2x0.0001GB").stdout
    assert "it does not fit" in there
    few = json.loads(call(train, recipe, "--dry-run", "--device", "1x0.0002GB", "--json").stdout)["footprint"]
    assert sum(few["memory"].values()) > few["room"] == 200_000
    assert all(size <= few["room"] for _, size in few["ways"])
    refused = call(train, recipe, "--device", "1x24GB")
    assert str(refused.exception) == "--device is for the plan; add --dry-run"


def test_a_setting_without_effect_is_told(recipe: str) -> None:
    changed = ("evaluation.max_new_tokens=3", "data.validation_share=0.25")
    remarks = json.loads(call(train, recipe, *changed, "--dry-run", "--json").stdout)["remarks"]
    assert any(remark.startswith("evaluation.max_new_tokens: has no effect") for remark in remarks)
    assert "data.validation_share: 12 training rows are set aside, and nothing is tested on them" in remarks


@pytest.mark.parametrize("rounds", [True, False])
def test_rounded_products_are_told_of_where_the_machine_has_none(
    rounds: bool, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clkit.engine.prepare.is_rounded", lambda precision, device: rounds)
    remarks = json.loads(call(train, recipe, "training.matmul=medium", "--dry-run", "--json").stdout)["remarks"]
    assert any("matmul: 'medium' has no effect on this machine" in remark for remark in remarks) is not rounds


def test_overwriting_never_removes_a_recipe_that_is_extended(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "name: x\nseed: 1\n", {})
    run.recipe_path.write_text((recipes_folder() / "quickstart.yaml").read_text("utf-8"), "utf-8")
    child = tmp_path / "child.yaml"
    child.write_text("extends: run/recipe.yaml\n", "utf-8")
    refused = call(train, str(child), "--overwrite", "--run", str(run.path))
    assert "which the new run reads" in str(refused.exception)
    assert run.recipe_path.is_file()


def test_smoke_runs_on_the_embedded_default(recipe: str, tmp_path: Path) -> None:
    done = call(train, recipe, "data.train_per_task=16", "--smoke", "--run", str(tmp_path / "run"), "--json")
    assert done.exit_code == 0, done.exception
    (run,) = json.loads(done.stdout)["runs"]
    assert run["matrix"]["tasks"] == ["topics", "reviews", "requests", "emotions"]
    assert "migu" in (tmp_path / "run" / "recipe.yaml").read_text("utf-8")


def test_a_missing_model_names_the_alternatives(recipe: str, tmp_path: Path) -> None:
    done = call(train, recipe, f"model.name={tmp_path / 'nothing'}", "--run", str(tmp_path / "run"))
    assert isinstance(done.exception, ModelError)
    assert "nothing does not exist" in str(done.exception)
    done = call(train, recipe, "model.name=google-t5/t5-nowhere", "--run", str(tmp_path / "run2"))
    assert isinstance(done.exception, ModelError)
    assert "model.name=embedded:tiny-t5" in str(done.exception)


def test_eval_tests_a_stage_on_its_tasks_and_on_others(recipe: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    call(train, recipe, "--run", run)
    scores = json.loads(call(evaluate, run, "--stage", "1", "--task", "first", "--json").stdout)["scores"]
    rows = json.loads((tmp_path / "run" / "matrix.json").read_text("utf-8"))["rows"]
    assert scores["first"].pop("macro_f1") <= 1
    first = RunFolder.open(run).stages()[1]  # behind the zero-shot test
    given = [json.loads(line) for line in (first.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    outside = sum(one["prediction"] not in ("w1", "w2") for one in given if one["task"] == "first") / 24
    assert scores == {"first": {"exact_match": rows[0][0], "outside_labels": outside, "examples": 24}}
    saved = tmp_path / "predictions.jsonl"
    other = call(evaluate, run, "data.test_per_task=5", "--tasks-of", "quickstart", "--save", str(saved))
    assert other.exit_code == 0, other.exception
    assert [line.split()[-1] for line in other.stdout.splitlines()[1:5]] == ["5"] * 4
    assert other.stdout.splitlines()[5].strip() == "outside_labels: lower is better"
    assert len(saved.read_text("utf-8").splitlines()) == 20
    unknown = call(evaluate, run, "--task", "frist")
    assert isinstance(unknown.exception, UsageError)
    assert str(unknown.exception) == "unknown task 'frist', did you mean 'first'? (tasks: first, second)"


@pytest.mark.parametrize("change", ["tuning.method=lora", "model.name=elsewhere", "training.epochs=3"])
def test_eval_refuses_to_change_the_model(recipe: str, tmp_path: Path, change: str) -> None:
    run = str(tmp_path / "run")
    call(train, recipe, "training.epochs=1", "--run", run)
    refused = call(evaluate, run, change)
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception).startswith(f"{change.partition('.')[0]}: the model is the run's, as it was trained; ")


def test_events_as_lines_are_those_that_a_watcher_reads(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = call(train, recipe, "training.epochs=1", "--run", str(run), "--json-lines")
    assert done.exit_code == 0, done.exception
    events = [json.loads(line) for line in done.stdout.splitlines()]
    last = events.pop()
    assert (last["event"], last["run"]) == ("finished", str(run))
    assert last["metrics"]["average_accuracy"] == RunFolder.open(run).read_matrix().metrics()["average_accuracy"].value

    def told(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What both tell, without when it was."""
        kept = [one for one in events if one["event"] not in ("note", "testing", "scored")]
        return [
            {key: value for key, value in one.items() if key not in ("time", "seconds", "seconds_left")} for one in kept
        ]

    assert told(events) == told(Watched(run).look())
    assert [(one["stage"], one["task"]) for one in events if one["event"] == "scored"][-2:] == [
        ("second", "first"),
        ("second", "second"),
    ]
    for flag in ("--json", "--dry-run"):
        refused = call(train, recipe, "--json-lines", flag)
        assert str(refused.exception).startswith("--json-lines is for what happens in a run")


@pytest.fixture
def newest(toy: ToyRecipe, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, which is the only one in `runs/` of the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished(toy(training={"epochs": 0.4}, data={"test_per_task": 4})).path, "runs/toy")
    return tmp_path


def test_without_a_run_the_first_word_may_be_an_override(newest: Path) -> None:
    scores = json.loads(call(evaluate, "data.test_per_task=2", "evaluation.answer=rank", "--json").stdout)
    assert scores["run"] == "runs/toy"
    assert {name: one["examples"] for name, one in scores["scores"].items()} == {"first": 2, "second": 2}
    done = call(inspect_magnitudes, "prompt.max_tokens=32", "--stage", "second", "--examples", "2", "--json")
    assert done.exit_code == 0, done.exception
    assert [stage["stage"] for stage in json.loads(done.stdout)["stages"]] == ["02-second"]
    assert (newest / "runs/toy/inspect/02-second/magnitudes.json").is_file()
    for verb in (evaluate, inspect_magnitudes):
        refused = call(verb, "model.name=elsewhere")
        assert str(refused.exception).startswith("model: the model is the run's, as it was trained; ")


def test_where_nothing_can_be_written_nothing_is_computed(newest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clkit.recipe.inputs.load_tasks", lambda *_: pytest.fail("tasks are read"))
    monkeypatch.setattr("clkit.engine.evaluate.evaluate", lambda *_, **__: pytest.fail("the model is tested"))
    Path("a_file").write_text("mine", "utf-8")
    for verb, option, target in (
        (evaluate, "--save", "/proc/predictions.jsonl"),
        (evaluate, "--save", "/dev/null"),
        (inspect_magnitudes, "--out", "/proc/magnitudes"),
        (inspect_magnitudes, "--out", "a_file"),
        (inspect_magnitudes, "--out", "/dev/null"),
    ):
        refused = call(verb, option, target, *(["--force"] if target == "/dev/null" else []))
        assert isinstance(refused.exception, UsageError), (option, target)
    assert Path("a_file").read_text("utf-8") == "mine"


def test_inspect_magnitudes_prints_and_saves(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(inspect_magnitudes, recipe, "--out", str(out), "--top", "0.25", "--examples", "8")
    assert done.exit_code == 0, done.exception
    assert "top 25% of rows shared by two tasks" in done.stdout
    assert "encoder.block.*" in done.stdout
    rows = pandas.read_parquet(out / "magnitudes.parquet")
    assert (rows.layer == "encoder.block.0.layer.0.SelfAttention.q").sum() == 2 * 16
    sums = rows.groupby(["layer", "task"], observed=True).magnitude.sum()
    assert sums.tolist() == pytest.approx([1] * len(sums), rel=1e-5)
    assert json.loads((out / "magnitudes.json").read_text("utf-8"))["top_share"] == 0.25
    assert {path.name for path in out.glob("*.png")} == {"distribution.png", "distances.png"}


def test_inspect_magnitudes_measures_the_stages_that_are_kept(newest: Path) -> None:
    options = ("--examples", "4", "--layers", "attention", "--depth", "0", "--format", "svg")
    done = call(inspect_magnitudes, "runs/toy", *options)
    assert done.exit_code == 0, done.exception
    found = json.loads(Path("runs/toy/inspect/magnitudes.json").read_text("utf-8"))
    assert [stage["stage"] for stage in found["stages"]] == ["zero-shot", "01-first", "02-second"]
    assert {one["depth"] for one in found["layers"].values()} == {0}
    assert Path("runs/toy/inspect/stages.svg").is_file()
    assert call(doctor, "runs/toy").exit_code == 0
    RunFolder.open("runs/toy").drop_model(Path("runs/toy/tasks/01-first"))
    again = call(inspect_magnitudes, "runs/toy", *options, "--json")
    assert [stage["since"] for stage in json.loads(again.stdout)["stages"]] == [None, "zero-shot"]
    refused = call(inspect_magnitudes, "runs/toy", "--depth", "first")
    assert str(refused.exception).startswith("--depth: 'first' is no list of blocks")
