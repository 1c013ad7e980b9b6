"""Recipes compared key by key, and which runs are repetitions of one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.errors import RunError
from clkit.run.comparison import compare_recipes, open_runs, read_otherwise, seed_groups, telling_apart
from clkit.run.folder import RunFolder


class TestCompareRecipes:
    def test_dotted_keys(self):
        old = "seed: 1\ntraining: {epochs: 1.0, batch_size: 8}\ntasks: [{name: a, labels: [x, y]}, {name: b}]\n"
        new = "seed: 1\ntraining: {epochs: 2.0, batch_size: 8}\ntasks: [{name: a, labels: [y, x]}, {name: b}]\n"
        assert compare_recipes(old, old) == []
        assert compare_recipes(old, new) == ["training.epochs", "tasks.a.labels"]

    def test_strategies_by_name(self):
        old = "strategies: [{name: migu, threshold: 0.7}, {name: ewc}]"
        new = "strategies: [{name: migu, threshold: 0.5}, {name: replay}]"
        assert compare_recipes(old, new) == ["strategies.migu.threshold", "strategies.ewc", "strategies.replay"]

    def test_order_counts_in_lists_and_not_in_mappings(self):
        assert compare_recipes("s: [{name: a}, {name: b}]", "s: [{name: b}, {name: a}]") == ["s"]
        assert compare_recipes("p: {a: {name: 1}, b: {name: 2}}", "p: {b: {name: 2}, a: {name: 1}}") == []

    def test_missing_key_null_and_type(self):
        assert compare_recipes("a: 0", "{}") == ["a"]
        assert compare_recipes("a: null", "a: {b: 1}") == ["a"]
        assert compare_recipes("a: true", "a: 1") == ["a"]

    def test_what_an_earlier_clkit_did_not_know_and_is_off_is_no_difference(self):
        for off in ("null", "false"):
            assert compare_recipes("t: {a: 1}", f"t: {{a: 1, new: {off}}}") == []
            assert compare_recipes(f"s: [{{name: a, new: {off}}}]", "s: [{name: a}]") == []
        assert compare_recipes("t: {a: 1}", "t: {a: 1, new: true}") == ["t.new"]
        assert compare_recipes("a: null", "a: false") == ["a"]  # both know it

    def test_damaged(self):
        with pytest.raises(RunError, match="the old recipe is no YAML"):
            compare_recipes("a: [", "a: 1")


def test_recipes_are_told_apart_by_as_few_keys_as_that_takes():
    def migu(**options: float) -> dict[str, object]:
        return {"strategies": [{"name": "migu", "source": "magnitude", **options}]}

    plain = {"strategies": []}
    assert telling_apart([plain]) == [""]
    assert telling_apart([plain, migu(threshold=0.7), migu(threshold=0.9)]) == [
        "strategies none",
        "strategies migu, migu.threshold 0.7",
        "strategies migu, migu.threshold 0.9",
    ]
    assert telling_apart([{"name": "a", "x": 1}, {"name": "b", "x": 2}]) == ["a", "b"]
    one_rate, other_rate = ({"name": "a", "rate": rate} for rate in (0.5, 0.25))
    assert telling_apart([one_rate, {"name": "b", "rate": 0.25}, other_rate]) == ["a, rate 0.5", "b", "a, rate 0.25"]
    rates = [{"name": "a", "training": {"learning_rate": rate, "epochs": 1 / rate}} for rate in (0.5, 0.25)]
    assert telling_apart(rates) == ["learning_rate 0.5", "learning_rate 0.25"]


def test_seed_groups(tmp_path: Path):
    def make(name: str, recipe: str) -> RunFolder:
        return RunFolder.create(tmp_path / name, recipe, {})

    one, two = make("one", "name: x\nseed: 1\n"), make("two", "name: x\nseed: 2\n")
    other = make("other", "name: y\nseed: 1\n")
    again = make("again", "name: x\nseed: 1\n")
    assert seed_groups([one, other, two]) == ([[one, two]], [])
    later = make("later", "name: x\nseed: 2\npacked: false\n")
    assert seed_groups([one, later]) == ([[one, later]], [])
    assert seed_groups([one, make("packed", "name: x\nseed: 2\npacked: true\n")]) == ([], [])
    assert seed_groups([one, two, again]) == ([], [[one, two, again]])  # the same seed twice is no second draw
    assert seed_groups([one]) == ([], [])


def test_what_two_runs_read_under_one_name():
    one = {"model.config.json": "1", "tasks.a.test": "2", "tasks.a.train": "3", "strategies.replay.train": "4"}
    other = {"model.config.json": "9", "tasks.a.test": "9", "tasks.a.train": "9", "tasks.b.test": "9"}
    other["strategies.replay.train"] = "9"
    assert read_otherwise(one, other, "test") == ["model.config.json", "tasks.a.test"]
    assert read_otherwise(one, other, "train", "test") == ["model.config.json", "tasks.a.train", "tasks.a.test"]
    assert read_otherwise(one, {}, "test") == read_otherwise(one, one, "test") == []


def test_a_damaged_run_is_found_and_told_of(tmp_path: Path):
    for name in ("whole", "damaged"):
        run = RunFolder.create(tmp_path / name, "name: x\n", {})
        run.stage_folder(1, "a").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "damaged" / "recipe.yaml").unlink()
    (found,), (remark,) = open_runs([tmp_path])
    assert found.path.name == "whole"
    assert remark == f"left out: {tmp_path / 'damaged'} is no run folder: recipe.yaml missing"
    with pytest.raises(RunError, match=r"damaged is no run folder: recipe\.yaml missing"):
        open_runs([tmp_path / "whole", tmp_path / "damaged"])
