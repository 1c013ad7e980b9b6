"""`clkit sweep`: real runs in processes of their own, one of which fails; and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clkit.cli.sweep import sweep
from clkit.cli.validate import validate
from clkit.errors import ClkitError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.cli.verbs import call
from tests.toy import toy_recipe

SUITE = """\
name: mine
recipe: toy.yaml
seeds: [1]
methods:
  plain: {}
  broken: {set: {strategies: [{name: "failing:Failing"}]}}
"""

FAILING = """\
import clkit

class Failing(clkit.Strategy):
    name = "failing"

    def before_task(self, context):
        raise ValueError("it was written so")
"""


@pytest.fixture
def suite(tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recipe = toy_recipe(tmp_path, flat_t5, training={"epochs": 0.4}, data={"test_per_task": 4})
    Path("toy.yaml").write_text(yaml.safe_dump(recipe.model_dump()), "utf-8")
    Path("failing.py").write_text(FAILING, "utf-8")
    Path("mine.yaml").write_text(SUITE, "utf-8")
    return Path("mine.yaml")


def test_one_run_fails_and_the_other_is_finished(suite: Path) -> None:
    result = call(sweep, str(suite), "--jobs", "2")
    assert isinstance(result.exception, ClkitError)
    log = Path("runs/mine/broken/seed1.log").resolve()
    assert "1 of the runs failed: broken/seed1 (error: " in str(result.exception)
    assert f"log: {log})" in str(result.exception)
    assert "it was written so" in log.read_text()
    assert "plain/seed1: finished; 1 to go" in result.stderr or "plain/seed1: finished; that was" in result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines()[3:]] == [["plain", "1/1"], ["broken", "0/1,"]]
    run = RunFolder.open("runs/mine/plain/seed1")
    assert run.recipe() == {**Recipe.load("toy.yaml", ["name=plain", "seed=1"]).model_dump()}

    listed = json.loads(call(sweep, str(suite), "--dry-run", "--json").stdout)
    assert [entry["state"] for entry in listed["runs"]] == ["finished", "begun"]
    shown = call(sweep, str(suite), "--dry-run").stdout.splitlines()
    assert shown[0].startswith("clkit train ")
    assert shown[0].endswith("--run runs/mine/plain/seed1  # finished")
    assert shown[2] == "2 runs: 1 finished, 1 to go, 2 side by side"

    with pytest.raises(
        UsageError, match=r"plain/seed1 is the run of another recipe, which differs in training\.epochs"
    ):
        raise call(sweep, str(suite), "set.training.epochs=3").exception or AssertionError


def test_validate_counts_the_runs(suite: Path) -> None:
    lines = call(validate, str(suite), "seeds=[1,2]").stdout.splitlines()
    assert lines == ["name: mine", "methods: plain, broken", "runs: 4"]
    rates = "rates={values: [1e-3, 1e-2]}"
    chosen = [str(suite), "set.data.validation_share=0.2", rates]
    assert call(validate, *chosen).stdout.splitlines()[-2:] == ["runs: 2", "validation_runs: 4"]
    assert json.loads(call(validate, *chosen, "--json").stdout)["runs"] == 2
    unsplit = call(validate, str(suite), rates)
    assert unsplit.exit_code == 2
    assert "needs data.validation_share above 0" in unsplit.stdout


def test_a_missing_file_is_told_before_any_run(suite: Path) -> None:
    result = call(validate, str(suite), "set.model.name=./nowhere")
    assert (result.exit_code, result.stdout.count("nowhere")) == (2, 1)
