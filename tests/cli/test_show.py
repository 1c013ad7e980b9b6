"""`clkit show`: the file as it is, or the whole recipe that will run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clkit.cli.show import show
from clkit.errors import RecipeError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import recipes_folder, shipped_suites
from clkit.suites.planning import PlannedSuite
from tests.cli.verbs import call


def test_the_file_as_it_is() -> None:
    assert call(show, "t5_order5").stdout == (recipes_folder() / "t5_order5.yaml").read_text()


def test_the_file_as_json() -> None:
    shown = json.loads(call(show, "t5_order2", "--json").stdout)
    assert shown == {
        "extends": "t5_order1",
        "name": "t5_order2",
        "benchmark": {"name": "standard_cl", "order": 2},
    }


def test_resolved_with_an_override_it_loads_as_the_same_recipe(tmp_path: Path) -> None:
    result = call(show, "t5_order5", "strategies.migu.threshold=0.5", "--resolved")
    (tmp_path / "full.yaml").write_text(result.stdout)
    expected = Recipe.load("t5_order5", ["strategies.migu.threshold=0.5"])
    assert Recipe.load(tmp_path / "full.yaml") == expected
    as_json = json.loads(call(show, "t5_order5", "strategies.migu.threshold=0.5", "--resolved", "--json").stdout)
    assert as_json == expected.model_dump()


@pytest.mark.parametrize("name", shipped_suites())
def test_a_suite_resolved_is_the_same_suite(name: str, tmp_path: Path) -> None:
    shown = call(show, name, "seeds=[7]", "--resolved")
    assert shown.exit_code == 0
    suite = PlannedSuite.load(name, ["seeds=[7]"]).suite
    (tmp_path / "full.yaml").write_text(shown.stdout, "utf-8")
    assert PlannedSuite.load(tmp_path / "full.yaml").suite == suite


def test_a_resolved_suite_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study" / "data").mkdir(parents=True)
    (tmp_path / "study" / "mine.yaml").write_text("extends: quickstart\nname: own\n")
    suite = "name: s\nrecipe: mine.yaml\nset: {benchmark: {name: short_cl, order: 4, folder: data}}\nseeds: [1]\n"
    (tmp_path / "study" / "suite.yaml").write_text(f"{suite}methods: {{a: {{}}}}\n")
    shown = call(show, str(tmp_path / "study" / "suite.yaml"), "--resolved").stdout
    (tmp_path / "full.yaml").write_text(shown, "utf-8")
    monkeypatch.chdir(tmp_path)
    runs = [
        PlannedSuite.load(path).runs({"a": [None]})[0].recipe.model_dump() for path in ("study/suite.yaml", "full.yaml")
    ]
    assert runs[0] == runs[1]
    assert runs[0]["benchmark"]["folder"] == str(tmp_path / "study" / "data")


@pytest.mark.parametrize(
    ("arguments", "kind", "expected"),
    [
        (["quickstart", "seed=1"], UsageError, "'seed=1' changes the recipe, but the file is shown as it is"),
        (["quickstart", "seed=x", "--resolved"], RecipeError, "command line: seed: 'x' is not a whole number"),
        (["none.yaml"], UsageError, "no recipe 'none.yaml' (give a file's path"),
    ],
)
def test_what_cannot_be_shown(arguments: list[str], kind: type[Exception], expected: str) -> None:
    result = call(show, *arguments)
    assert isinstance(result.exception, kind)
    assert str(result.exception).startswith(expected)
