"""What README, guide and CONTRIBUTING say is true: commands and code run, recipes load, the README is short.

README's commands are run from top to bottom in one folder, as a newcomer would; those of the quickstart in miniature
(`--smoke`), as the README says one may, since `.ci/run` runs it in full. What needs a hub is parsed, its recipe loaded.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from clkit.cli.app import VERBS, app
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipe
from clkit.strategies.registry import load_strategy
from clkit.suites.planning import load_either

ROOT = Path(__file__).parents[1]
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/guide.md", "CONTRIBUTING.md")}
README, GUIDE = TEXTS["README.md"], TEXTS["docs/guide.md"]
#: How a file that is shown begins, and where it belongs: in the folder where the README's commands run.
FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each command in the text's blocks, and of each of clkit's within its sentences."""
    joined = [block.replace("\\\n", " ") for block in blocks(text, "bash")]
    lines = [part for block in joined for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r"`(clkit [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


def clkit_commands() -> list[list[str]]:
    found = (line[1:] for text in TEXTS.values() for line in commands(text) if line[0] == "clkit" and len(line) > 2)
    return [line for line in found if line[0] in VERBS]


def write_shown_files(folder: Path) -> None:
    for block in blocks(README, "python") + blocks(README, "yaml"):
        if named := FILE_NAME.match(block):
            (folder / named[1]).write_text(block, "utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_the_probe_finds_commands() -> None:
    assert len(clkit_commands()) > 30


@pytest.mark.parametrize("command", clkit_commands(), ids=" ".join)
def test_commands_parse_and_name_recipes_that_load(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shown_files(tmp_path)
    verb, *arguments = command
    parsed = get_command(app).commands[verb].make_context(verb, list(arguments)).params  # type: ignore[attr-defined]
    name = parsed.get("recipe") if verb in ("train", "show") else None
    if name is not None and (shipped_recipe(name) is not None or Path(name).exists()):
        Recipe.load(name, parsed.get("overrides") or [])
    else:
        assert verb != "train"


def test_the_readmes_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shown_files(tmp_path)
    done = []
    for program, *arguments in commands(README.split("<!-- end -->")[1]):
        if program == "python":
            runpy.run_path(arguments[0])
        elif program == "clkit" and len(arguments) > 1:
            in_miniature = ["--smoke"] if arguments[:2] == ["train", "quickstart"] and len(arguments) > 2 else []
            if arguments == ["train", "quickstart"]:  # `.ci/run` does
                continue
            result = CliRunner().invoke(app, arguments + in_miniature)
            assert result.exit_code == 0, (arguments, result.output, result.exception)
        else:  # a verb that is only named; and tests/test_packaging.py builds and installs
            assert program in ("clkit", "pip")
            continue
        done.append(" ".join(arguments))
    assert len(done) > 10
    matrix = yaml.safe_load(Path("runs/tickets-42/matrix.json").read_text("utf-8"))
    assert min(matrix["rows"][-1]) > 0.9  # the example learns both of its tasks and forgets neither
    assert Path("my.yaml").is_file()

    (snippet,) = (block for block in blocks(README, "python") if "from_pretrained" in block)
    Path("use_it.py").write_text(snippet, "utf-8")
    said: list[str] = []
    runpy.run_path("use_it.py", init_globals={"print": said.append})
    assert said == [re.search(r"# (\w+)$", snippet.strip())[1]]  # type: ignore[index]


@pytest.mark.parametrize(
    "text", [block for text in TEXTS.values() for block in blocks(text, "yaml") if ".github/" not in block]
)
def test_recipes_load(tmp_path: Path, text: str) -> None:
    write_shown_files(tmp_path)
    path = tmp_path / "shown_recipe.yaml"
    path.write_text(text, "utf-8")
    shown = yaml.safe_load(text)
    assert load_either(path, []).name == shown.get("name", "tickets")


def test_the_strategy_of_ones_own_is_found_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks(TEXTS["CONTRIBUTING.md"], "python") if "clkit.Strategy" in block]
    (tmp_path / "outside_clkit.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        own = "strategies=[{name: 'outside_clkit:FirstTaskOnly'}]"
        assert load_strategy(Recipe.load("quickstart", [own]).strategies[0].name).__name__ == "FirstTaskOnly"
        result = CliRunner().invoke(app, ["train", "quickstart", own, "--smoke", "--run", "own"])
        assert result.exit_code == 0, (result.output, result.exception)
        files = [Path(f"own/tasks/{stage}/model/model.safetensors") for stage in ("01-topics", "04-emotions")]
        assert files[0].read_bytes() == files[1].read_bytes()
    finally:
        sys.modules.pop("outside_clkit", None)


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_files_that_contributing_points_at_are_there_and_short() -> None:
    shown = re.findall(r"`((?:clkit|tests)/[\w/]+\.py)` \(an example\)", TEXTS["CONTRIBUTING.md"])
    assert len(shown) >= 4
    assert all(len((ROOT / path).read_text("utf-8").splitlines()) <= 60 for path in shown)


def test_every_verb_is_described() -> None:
    assert all(f"clkit {verb}" in README + GUIDE for verb in VERBS if verb != "schema")


def test_the_options_of_migu_are_all_described() -> None:
    fields = set(load_strategy("migu").Options.model_fields) - {"name"}
    described = set(re.findall(r"^\| `(\w+)` \|", GUIDE, flags=re.MULTILINE))
    assert fields <= described


def test_every_strategy_is_in_the_readmes_table() -> None:
    shipped = {path.stem for path in (ROOT / "clkit/strategies/builtin").glob("[a-z]*.py")}
    assert shipped == set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
