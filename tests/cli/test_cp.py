"""`clkit cp`: a recipe of one's own, with the schema beside it, and nothing overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.cli.cp import cp
from clkit.errors import UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import recipes_folder
from tests.cli.verbs import call


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_copies_the_recipe_and_the_schema_and_says_so() -> None:
    result = call(cp, "t5_order2", "my.yaml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "wrote my.yaml\nwrote recipe.schema.json\n"
    assert Path("my.yaml").read_bytes() == (recipes_folder() / "t5_order2.yaml").read_bytes()
    assert Path("recipe.schema.json").read_bytes() == (recipes_folder() / "recipe.schema.json").read_bytes()
    assert Recipe.load("my.yaml") == Recipe.load("t5_order2")


def test_into_a_folder_it_keeps_its_name_and_a_schema_there_stays() -> None:
    Path("recipe.schema.json").write_text("{}")
    assert call(cp, "quickstart", ".").stderr == "wrote quickstart.yaml\n"
    assert Path("recipe.schema.json").read_text() == "{}"


def test_it_overwrites_only_with_force() -> None:
    Path("my.yaml").write_text("mine")
    result = call(cp, "quickstart", "my.yaml")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "'my.yaml' exists; --force replaces it"
    assert Path("my.yaml").read_text() == "mine"
    assert call(cp, "quickstart", "my.yaml", "--force").exit_code == 0
    assert "name: quickstart" in Path("my.yaml").read_text()


def test_a_recipe_is_not_copied_onto_itself() -> None:
    call(cp, "quickstart", "my.yaml")
    result = call(cp, "my.yaml", "my.yaml", "--force")
    assert str(result.exception) == "'my.yaml' is the recipe itself"
    assert "name: quickstart" in Path("my.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["quikstart", "my.yaml"], "no recipe 'quikstart', did you mean 'quickstart'?"),
        (["quickstart", "none/my.yaml"], "there is no folder 'none'; make it first"),
    ],
)
def test_what_cannot_be_copied(arguments: list[str], expected: str) -> None:
    result = call(cp, *arguments)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(expected)
