"""What the README says is true: its commands parse, its recipes load, its code runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from clkit.cli.app import VERBS, app
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipe
from clkit.strategies.registry import load_strategy

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def clkit_commands() -> list[list[str]]:
    joined = [block.replace("\\\n", " ") for block in blocks("bash")]
    lines = [part for block in joined for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r"`(clkit [^`]+)`", README)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["clkit"] and len(line) > 2]


def test_the_probe_finds_commands() -> None:
    assert len(clkit_commands()) > 12


@pytest.mark.parametrize("command", clkit_commands(), ids=" ".join)
def test_commands_parse_and_name_recipes_that_load(command: list[str]) -> None:
    verb, *arguments = command
    parsed = get_command(app).commands[verb].make_context(verb, list(arguments)).params  # type: ignore[attr-defined]
    name = parsed.get("recipe") if verb in ("train", "show", "validate") else None
    if name is not None and shipped_recipe(name) is not None:
        Recipe.load(name, parsed.get("overrides") or [])
    else:
        assert verb not in ("train",)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    assert Recipe.load(path).name == yaml.safe_load(text)["name"]


def test_the_strategy_of_ones_own_is_found_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks("python") if "clkit.Strategy" in block]
    (tmp_path / "outside_clkit.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        recipe = Recipe.load("quickstart", ["strategies=[{name: 'outside_clkit:FirstTaskOnly'}]"])
        assert load_strategy(recipe.strategies[0].name).__name__ == "FirstTaskOnly"
    finally:
        sys.modules.pop("outside_clkit", None)


def test_every_verb_is_in_the_readme() -> None:
    assert all(f"clkit {verb}" in README for verb in VERBS if verb != "schema")


def test_the_options_of_migu_are_all_described() -> None:
    fields = set(load_strategy("migu").Options.model_fields) - {"name"}
    described = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    assert fields <= described
