"""Strategies from outside: an installed package, a module in the current folder, and plugins that are broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

from clkit.cli.ls import ls
from clkit.cli.train import train as train_verb
from clkit.cli.validate import validate
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.reference import recipe_schema
from clkit.recipe.schema import described_schema, linked_schema
from clkit.recipe.written import recipe_yaml
from clkit.run.folder import RunFolder
from clkit.strategies.registry import load_strategy
from tests.bad_inputs import corpus
from tests.cli.verbs import call
from tests.toy import toy_recipe

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"
MODULE_CLASS = "clkit_first_tasks_only:FirstTasksOnly"

UNDESCRIBED = """
from typing import Literal

import clkit


class OwnOptions(clkit.StrategyOptions):
    name: Literal["own"]
    steps: int


class Own(clkit.Strategy):
    name = "own"
    Options = OwnOptions
"""
BARE = '''
import clkit

class Bare(clkit.Strategy):
    """Do nothing at all.

    Not even this."""

    name = "bare"
'''
OPTIONS = """
import clkit
from clkit.strategies.options import StrategyOptions

class LooseOptions(StrategyOptions):
    strength: float = 1.0

class Loose(clkit.Strategy):
    name = "loose"
    Options = LooseOptions
"""
RICH = """
import enum
from pathlib import Path
from typing import Literal

import clkit

class Colour(enum.Enum):
    red = "red"
    blue = "blue"

class RichOptions(clkit.StrategyOptions):
    name: Literal["rich"] = "rich"
    pair: tuple[float, float] = (0.1, 0.2)
    names: frozenset[str] = frozenset({"a"})
    where: Path = Path("here")
    colour: Colour = Colour.red

class Rich(clkit.Strategy):
    name = "rich"
    Options = RichOptions
"""
HOOK = """
import clkit
import torch

class Hook(clkit.Strategy):
    name = "hook"

    def {hook}:
        {body}
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package of `tests/plugin_package`."""
    folder = tmp_path_factory.mktemp("plugins")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(PACKAGE)], check=True, timeout=600)
    return folder


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (described_schema, linked_schema):
        cached.cache_clear()
    yield tmp_path
    for name in ("clkit_first_tasks_only", "mine", "broken_plugin"):
        sys.modules.pop(name, None)
    for cached in (described_schema, linked_schema):
        cached.cache_clear()


@pytest.fixture
def installed(plugins: Path, importable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package is installed for this process too."""
    monkeypatch.syspath_prepend(str(plugins))
    return plugins


def offer(folder: Path, name: str, value: str) -> None:
    """What an installer leaves behind of a package with this entry point."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[clkit.strategies]\n{name} = {value}\n")


def weights(run: RunFolder) -> list[dict[str, torch.Tensor]]:
    return [load_file(stage.folder / "model" / "model.safetensors") for stage in run.stages()[1:]]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def problems(*overrides: str) -> list[str]:
    """What `clkit validate` finds wrong with the quickstart under these overrides."""
    result = call(validate, "quickstart", *overrides)
    assert result.exit_code == 2, result.stdout
    return [line.removeprefix("command line: ") for line in result.stdout.splitlines()]


# --- an installed package -------------------------------------------------------------------------------------------


def test_an_installed_strategy_trains(installed: Path, tmp_path: Path, toy_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, toy_t5, training={"epochs": 1.0})
    (tmp_path / "toy.yaml").write_text(recipe_yaml(recipe), "utf-8")
    strategies = "strategies=[{name: first_tasks_only}]"
    done = call(train_verb, "toy.yaml", strategies, "--run", "run")
    assert done.exit_code == 0, done.exception
    first, second = weights(RunFolder.open(tmp_path / "run"))
    assert not equal(first, load_file(toy_t5 / "model.safetensors"))
    assert equal(first, second)


@pytest.mark.parametrize("tasks", [1, 2])
def test_module_and_class_do_as_well(installed: Path, tmp_path: Path, toy_t5: Path, tasks: int) -> None:
    recipe = toy_recipe(tmp_path, toy_t5, strategies=[{"name": MODULE_CLASS, "tasks": tasks}], training={"epochs": 1.0})
    run = train(recipe, tmp_path / "run")
    assert equal(*weights(run)) is (tasks == 1)
    assert Recipe.load(run.recipe_path) == recipe
    assert json.loads((run.stages()[-1].folder / "strategies.json").read_text("utf-8")) == {MODULE_CLASS: {}}
    shutil.rmtree(run.stages()[-1].folder)
    assert equal(*weights(train(recipe, run.path, resume=True))) is (tasks == 1)


def test_ls_lists_it(installed: Path) -> None:
    lines = call(ls, "strategies").stdout.splitlines()
    assert "first_tasks_only\tLearn the first tasks and nothing after them." in lines
    assert any(line.startswith("migu\t") for line in lines)


@pytest.mark.parametrize("name", ["first_tasks_only", MODULE_CLASS])
def test_its_options_are_checked(installed: Path, name: str) -> None:
    def found(entry: str) -> list[str]:
        return problems(f"strategies=[{{name: '{name}', {entry}}}]")

    assert found("taks: 2") == [
        f"strategies.{name}: unknown key 'taks', did you mean 'tasks'? (known keys: name, tasks)"
    ]
    assert found("tasks: 0") == [f"strategies.{name}.tasks: 0 is out of range (allowed: a whole number from 1)"]
    assert found("tasks: two") == [
        f"strategies.{name}.tasks: 'two' is not a whole number (allowed: a whole number from 1)"
    ]


def test_its_name_is_known(installed: Path) -> None:
    (problem,) = problems("strategies=[{name: first_task_only}]")
    assert "unknown strategy 'first_task_only', did you mean 'first_tasks_only'? (known: " in problem


def test_its_options_can_be_overridden(installed: Path) -> None:
    for name in ("first_tasks_only", MODULE_CLASS):
        recipe = Recipe.load("quickstart", [f"strategies=[{{name: '{name}'}}]", f"strategies.{name}.tasks=3"])
        assert recipe.model_dump()["strategies"] == [{"name": name, "tasks": 3}]


def test_the_same_strategy_under_two_names_is_refused(installed: Path) -> None:
    (problem,) = problems(f"strategies=[{{name: first_tasks_only}}, {{name: '{MODULE_CLASS}'}}]")
    assert "'first_tasks_only' stands more than once" in problem


def test_the_schema_for_editors_knows_it(installed: Path) -> None:
    def valid(entry: dict[str, Any]) -> bool:
        return jsonschema.Draft202012Validator(recipe_schema()).is_valid({"strategies": [entry]})

    assert valid({"name": "first_tasks_only", "tasks": 2})
    assert not valid({"name": "first_tasks_only", "tasks": 0})
    assert not valid({"name": "first_task_only"})


# --- without a package, without options -----------------------------------------------------------------------------


def test_a_module_in_the_current_folder(tmp_path: Path) -> None:
    """In a fresh process, without the current folder on Python's path, as the installed script has it."""
    (tmp_path / "mine.py").write_text(BARE)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "clkit", "validate", "quickstart", "strategies=[{name: 'mine:Bare'}]"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "strategies: mine:Bare" in done.stdout.splitlines()


def test_a_missing_option_without_a_description_is_named_with_its_type(importable: Path) -> None:
    (importable / "undescribed.py").write_text(UNDESCRIBED)
    assert problems("strategies=[{name: 'undescribed:Own'}]") == [
        "strategies.undescribed:Own.steps: missing (needed: a whole number)"
    ]


def test_a_strategy_without_options_takes_its_name_only(importable: Path) -> None:
    (importable / "mine.py").write_text(BARE)
    offer(importable, "bare", "mine:Bare")
    assert "bare\tDo nothing at all." in call(ls, "strategies").stdout.splitlines()
    assert Recipe.load("quickstart", ["strategies=[{name: bare}]"]).strategies[0].name == "bare"
    assert problems("strategies=[{name: bare, strength: 1}]") == [
        "strategies.bare: unknown key 'strength' (known keys: name)"
    ]
    schema = jsonschema.Draft202012Validator(recipe_schema())
    assert schema.is_valid({"strategies": [{"name": "bare"}]})
    assert not schema.is_valid({"strategies": [{"name": "bear"}]})


def test_options_may_be_what_a_recipe_has_no_way_to_write(importable: Path) -> None:
    (importable / "mine.py").write_text(RICH)
    entry = "{name: 'mine:Rich', pair: [0.1, 0.3], names: [c], where: there, colour: blue}"
    for strategies in ("[{name: 'mine:Rich'}]", f"[{entry}]"):
        recipe = Recipe.load("quickstart", [f"strategies={strategies}"])
        (importable / "again.yaml").write_text(recipe_yaml(recipe), "utf-8")
        assert Recipe.load("again.yaml") == recipe
    (options,) = recipe.strategies
    assert (options.pair, options.names, options.where) == ((0.1, 0.3), {"c"}, Path("there"))
    assert options.colour.value == "blue"
    assert problems("strategies=[{name: 'mine:Rich', pair: [a, 0.3]}]") == [
        "strategies.mine:Rich.pair[0]: 'a' does not fit"
    ]


# --- broken ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        ("import nowhere", "Bare", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("raise RuntimeError('no licence\\nfound')", "Bare", "cannot be imported: RuntimeError: no licence found"),
        ("class Bare(", "Bare", "cannot be imported: SyntaxError: '(' was never closed"),
        (BARE, "Bear", "cannot be imported: AttributeError: module 'mine' has no attribute 'Bear'"),
        (BARE, "clkit", "is not a subclass of clkit.Strategy"),
        (BARE.replace('    name = "bare"', ""), "Bare", 'Bare has no name; add `name = "..."` to the class'),
        (
            BARE.replace('"bare"', '"task"'),
            "Bare",
            "the name 'task' would log the strategy's loss as the task's; choose",
        ),
        (BARE + "    Options = dict", "Bare", "Bare.Options is not a subclass of clkit.strategies.options.Strategy"),
        (OPTIONS, "Loose", 'LooseOptions does not narrow its name; add the field `name: Literal["loose"]`'),
        (
            BARE + "    def before_stp(self, context): ...",
            "Bare",
            "cannot be imported: TypeError: Bare.before_stp is no hook of Strategy (hooks: before_task, ",
        ),
    ],
    ids=lambda value: value.split(":")[0][:30] if " " in value else value,
)
def test_a_broken_strategy_is_one_clear_line(importable: Path, source: str, attribute: str, message: str) -> None:
    (importable / "mine.py").write_text(source)
    (problem,) = problems(f"strategies=[{{name: 'mine:{attribute}'}}]")
    assert problem.startswith(f"strategies.mine:{attribute}: strategy 'mine:{attribute}'")
    assert message in problem


@pytest.mark.parametrize(
    ("hook", "body", "message"),
    [
        (
            "before_step(self, context)",
            "1 / 0",
            "strategy Hook, before_step ({mine}:9): ZeroDivisionError: division by zero (in code that is not clkit's; ",
        ),
        (
            "training_data(self, context, dataset)",
            "return dataset.select([])",
            "strategies.mine:Hook: it left no training data of 'first'",
        ),
        (
            "state_dict(self)",
            "return {'seen': {1, 2}}",
            "strategies.mine:Hook: its state 'seen' holds a set, which is no tensor and does not come back from",
        ),
        (
            "state_dict(self)",
            "return {'seen': {0: 1}}",
            "strategies.mine:Hook: its state 'seen' holds the key 0, which is no tensor and does not come back from",
        ),
        (
            "state_dict(self)",
            "return {0: 1}",
            "strategies.mine:Hook: its state has keys that are no text; name what it keeps",
        ),
        (
            "state_dict(self)",
            "return {'seen': [(1, 2)]}",
            "strategies.mine:Hook: its state 'seen' holds a tuple, which is no tensor and does not come back from JSON",
        ),
        (
            "state_dict(self)",
            "pass",
            "strategy Hook, state_dict: must return Mapping, not NoneType",
        ),
        (
            "training_data(self, context, dataset)",
            "return list(dataset)",
            "strategy Hook, training_data: must return Dataset, not list",
        ),
        (
            "remarks(self, family, tasks)",
            "yield {}['x']",
            "strategy Hook, remarks ({mine}:9): KeyError: there is no key 'x' (in code that is not clkit's; ",
        ),
        (
            "batch_loss(self, context, batch, outputs)",
            "return outputs['logits'].sum(-1)",
            "strategies.mine:Hook: its batch_loss must be a scalar that trained parameters take part in; return None ",
        ),
        (
            "batch_loss(self, context, batch, outputs)",
            "return outputs['logits'].detach().sum()",
            "strategies.mine:Hook: its batch_loss must be a scalar that trained parameters take part in; return None ",
        ),
        (
            "penalty(self, context)",
            "return torch.ones((), requires_grad=True).square()",
            "strategies.mine:Hook: its penalty must be a scalar that trained parameters take part in; return None ",
        ),
        (
            "penalty(self, context)",
            "return 0.5",
            "strategies.mine:Hook: its penalty must be a scalar that trained parameters take part in; return None ",
        ),
        (
            "penalty(self, context)",
            "return torch.tensor(1.0)",
            "strategies.mine:Hook: its penalty must be a scalar that trained parameters take part in; return None ",
        ),
        (
            "penalty(self, context)",
            "return context.model.shared.weight",
            "strategies.mine:Hook: its penalty must be a scalar that trained parameters take part in; return None ",
        ),
    ],
)
def test_a_hook_that_fails_is_one_clear_line(
    importable: Path,
    toy_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hook: str,
    body: str,
    message: str,
) -> None:
    mine = importable / "mine.py"
    mine.write_text(HOOK.format(hook=hook, body=body))
    (importable / "toy.yaml").write_text(recipe_yaml(toy_recipe(importable, toy_t5)), "utf-8")
    code = corpus.call(["train", "toy.yaml", "strategies=[{name: 'mine:Hook'}]", "--run", "run"], monkeypatch)
    assert code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: " + message.format(mine=mine))


def test_an_entry_point_has_the_name_of_its_strategy(importable: Path) -> None:
    (importable / "mine.py").write_text(BARE)
    offer(importable, "naked", "mine:Bare")
    with pytest.raises(UsageError, match="'naked': Bare calls itself 'bare'; its entry point must have the same name"):
        load_strategy("naked")


def test_a_plugin_that_breaks_on_import_ends_in_exit_code_2(
    importable: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (importable / "broken_plugin.py").write_text("1 / 0")
    offer(importable, "broken", "broken_plugin:Broken")
    code = corpus.call(["train", "quickstart", "strategies=[{name: broken}]"], monkeypatch)
    assert (code, *capsys.readouterr()) == (
        2,
        "",
        "error: command line: strategies.broken: strategy 'broken' cannot be imported: "
        "ZeroDivisionError: division by zero\n",
    )


def test_a_broken_plugin_does_not_disturb_other_recipes(importable: Path) -> None:
    (importable / "broken_plugin.py").write_text("1 / 0")
    offer(importable, "broken", "broken_plugin:Broken")
    listed = call(ls, "strategies").stdout
    assert "broken\tstrategy 'broken' cannot be imported: ZeroDivisionError" in listed
    assert problems("seed=x") == ["seed: 'x' is not a whole number (allowed: a whole number from 0, below 4294967296)"]
    assert recipe_schema()["properties"]["strategies"]


LIGHT = (
    "import sys; from clkit.strategies.registry import load_strategy, strategy_names; "
    "[load_strategy(name).Options.__doc__ for name in strategy_names()]; {0}"
    "print(sorted({{'torch', 'transformers', 'peft', 'datasets'}} & set(sys.modules)))"
)


def test_options_and_descriptions_load_without_heavy_modules() -> None:
    """In a fresh process; the control proves that the probe sees an import where there is one."""
    for extra, expected in (("", "[]"), ("import datasets; ", "['datasets']")):
        done = subprocess.run(
            [sys.executable, "-c", LIGHT.format(extra)], capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.strip() == expected
