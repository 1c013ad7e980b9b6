"""Recipes compared key by key: what a resumed run may differ in, and which runs are repetitions of one another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clkit.engine.resuming import resuming_differences
from clkit.errors import RunError
from clkit.recipe.recipe import Recipe
from clkit.recipe.saving import recipe_yaml
from clkit.run.atomic import write_json
from clkit.run.comparison import compare_recipes, seed_groups
from clkit.run.folder import RunFolder
from clkit.section import NOT_THE_RESULT, Section


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
        assert compare_recipes("a: null", "{}") == ["a"]
        assert compare_recipes("a: null", "a: {b: 1}") == ["a"]
        assert compare_recipes("a: true", "a: 1") == ["a"]

    def test_damaged(self):
        with pytest.raises(RunError, match="the old recipe is no YAML"):
            compare_recipes("a: [", "a: 1")


def test_seed_groups(tmp_path: Path):
    def make(name: str, recipe: str) -> RunFolder:
        return RunFolder.create(tmp_path / name, recipe, {})

    one, two = make("one", "name: x\nseed: 1\n"), make("two", "name: x\nseed: 2\n")
    other = make("other", "name: y\nseed: 1\n")
    again = make("again", "name: x\nseed: 1\n")
    assert seed_groups([one, other, two]) == [[one, two]]
    assert seed_groups([one, again]) == []  # the same seed twice is no second draw
    assert seed_groups([one]) == []


class TestResuming:
    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFolder:
        return RunFolder.create(tmp_path / "run", recipe_yaml(Recipe.load("quickstart")), {})

    def test_the_same_recipe(self, run: RunFolder):
        assert resuming_differences(run, Recipe.load("quickstart")) == ([], [])

    def test_what_decides_the_result_and_what_does_not(self, run: RunFolder):
        changed = Recipe.load(
            "quickstart",
            [
                "saving.models=last",
                "training.log_every=3",
                "training.epochs=7",
                "evaluation.batch_size=5",
                "name=other",
            ],
        )
        assert resuming_differences(run, changed) == (
            ["name", "training.epochs", "evaluation.batch_size"],
            ["training.log_every", "saving.models"],
        )

    def test_keys_that_an_older_recipe_lacks_have_their_defaults(self, run: RunFolder):
        data = run.recipe()
        del data["protocol"], data["tuning"]["freeze"], data["evaluation"]
        write_json(run.recipe_path, data)  # JSON is YAML
        assert resuming_differences(run, Recipe.load("quickstart")) == ([], [])
        frozen = Recipe.load("quickstart", ["tuning.method=full", "tuning.freeze=[norms]"])
        assert resuming_differences(run, frozen).result == ["tuning.freeze"]

    def test_a_key_that_this_clkit_does_not_know(self, run: RunFolder):
        write_json(run.recipe_path, {**run.recipe(), "optimizer": "lion"})
        write_json(run.env_path, {**run.environment(), "versions": {"clkit": "9.1"}})
        with pytest.raises(
            RunError, match=r"unknown key 'optimizer'.*; the run was made by clkit 9\.1: go on with that"
        ):
            resuming_differences(run, Recipe.load("quickstart"))

    def test_each_key_that_may_differ_says_so(self):
        def marked(section: type[Section]) -> Iterator[str | None]:
            for field in section.model_fields.values():
                if NOT_THE_RESULT in field.metadata:
                    yield field.description
                elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                    yield from marked(field.annotation)

        descriptions = list(marked(Recipe))
        assert len(descriptions) == 3
        assert all(text and text.endswith("May differ on `--resume`.") for text in descriptions)
