"""A suite's runs: their recipes, commands and places, and what is wrong told where it stands."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from clkit.errors import RecipeError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import shipped_recipes, shipped_suites
from clkit.suites.planning import PlannedRun, PlannedSuite

SUITE = """\
name: mine
recipe: quickstart
set:
  training: {epochs: 2}
  data.train_per_task: 8
seeds: [1, 2]
methods:
  plain: {set: {strategies: []}}
  masked: {set: {strategies.migu.mask: update, tuning: {method: lora, rank: 2}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SUITE, "utf-8")
    return tmp_path


def planned(text: str = SUITE, *changes: str, smoke: bool = False) -> PlannedSuite:
    Path("mine.yaml").write_text(text, "utf-8")
    return PlannedSuite.load("mine.yaml", changes, smoke=smoke)


def runs(suite: PlannedSuite) -> list[PlannedRun]:
    return suite.runs(suite.rates_to_try())


def trained(run: PlannedRun) -> Recipe:
    """The recipe that a run's command trains."""
    _, source, *overrides = run.arguments
    return Recipe.load(source, overrides)


def test_each_method_runs_with_each_seed() -> None:
    """Seed by seed, so that what was done until a sweep is stopped pairs."""
    found = runs(planned())
    assert [str(run.place) for run in found] == ["plain/seed1", "masked/seed1", "plain/seed2", "masked/seed2"]
    first, last = found[0].recipe, found[-1].recipe
    assert (first.name, first.seed, first.strategies, first.training.epochs) == ("plain", 1, [], 2)
    assert (last.name, last.seed, last.data.train_per_task, last.tuning.method) == ("masked", 2, 8, "lora")
    assert last.strategies[0].model_dump()["mask"] == "update"


def test_the_command_trains_the_planned_recipe() -> None:
    for run in runs(planned()):
        assert trained(run) == run.recipe
    assert shlex.join(runs(planned())[1].command(Path("out"))) == (
        "train quickstart training.epochs=2 data.train_per_task=8 strategies.migu.mask=update tuning.method=lora "
        "tuning.rank=2 name=masked seed=1 --run out/masked/seed1"
    )


def test_a_method_begins_anew_what_it_replaces() -> None:
    text = SUITE.replace(
        "set:\n", "set:\n  tuning: {method: lora, rank: 4}\n  strategies.migu.threshold: 0.5\n"
    ).replace("strategies: []", "strategies: [], tuning.method: full")
    plain, masked, *_ = runs(planned(text))
    assert (plain.recipe.tuning.method, plain.recipe.strategies) == ("full", [])
    assert masked.recipe.tuning.model_dump()["rank"] == 2
    assert masked.recipe.strategies[0].model_dump()["threshold"] == 0.5
    assert [trained(run) for run in (plain, masked)] == [plain.recipe, masked.recipe]


def test_orders_and_a_method_with_a_recipe_of_its_own() -> None:
    text = (
        "name: mine\nrecipe: t5_ft\nseeds: [3]\norders: [1, 3]\nmethods:\n  ft: {}\n  replay: {recipe: t5_ft_replay}\n"
    )
    found = runs(planned(text))
    assert [str(run.place) for run in found][1:3] == ["replay/order1-seed3", "ft/order3-seed3"]
    assert [run.recipe.benchmark.order for run in found if run.recipe.benchmark] == [1, 1, 3, 3]
    assert [entry.name for entry in found[1].recipe.strategies] == ["replay"]
    assert found[1].arguments[:2] == ("train", "t5_ft_replay")


def test_changes_on_the_command_line_are_changes_to_the_suite() -> None:
    found = runs(planned(SUITE, "seeds=[7]", "set.training.epochs=3", "methods.plain.set.training.batch_size=4"))
    assert [(run.recipe.seed, run.recipe.training.epochs) for run in found] == [(7, 3), (7, 3)]
    assert found[0].recipe.training.batch_size == 4


def test_paths_start_from_the_suites_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "suites"
    folder.mkdir()
    Path(folder, "base.yaml").write_text("extends: t5_ft\nname: base\n", "utf-8")
    text = "name: mine\nrecipe: base.yaml\nset: {benchmark: {folder: data}}\nseeds: [1]\nmethods: {plain: {}}\n"
    Path(folder, "mine.yaml").write_text(text, "utf-8")
    (run,) = runs(PlannedSuite.load("suites/mine.yaml"))
    assert run.recipe.benchmark is not None
    assert run.recipe.benchmark.folder == str(folder / "data")
    monkeypatch.chdir(folder)  # the command is right from anywhere
    assert trained(run) == run.recipe
    changed = PlannedSuite.load("mine.yaml", ["set.benchmark.folder=../other"])
    assert f"benchmark.folder={tmp_path / 'other'}" in runs(changed)[0].arguments


def test_the_model_is_asked_about_what_each_method_says_of_it() -> None:
    methods = "masked: {set: {training.packing: true}}\n  frozen: {set: {tuning.freeze: [heads]}}"
    text = SUITE.replace(SUITE[SUITE.index("masked:") :], methods)
    packed, frozen = planned(text).missing_inputs()
    assert packed.startswith("methods.masked: training.packing: seq2seq models such as this one (t5) read one example")
    assert frozen.startswith("methods.frozen: tuning.freeze: 'heads' fits no parameter of this model")
    (missing,) = planned(text, "set.model.name=./nowhere").missing_inputs()
    assert missing.startswith("model.name: the folder ")


def test_a_smoke_is_one_small_run_of_each_method() -> None:
    suite = planned(SUITE, smoke=True)
    found = runs(suite)
    assert suite.name == "mine-smoke"
    assert [(str(run.place), run.recipe.data.train_per_task) for run in found] == [
        ("plain/seed1", 64),
        ("masked/seed1", 64),
    ]
    assert all(run.arguments[-1] == "--smoke" for run in found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1, 2]", "seeds: [1, 1]", "mine.yaml:6: seeds: 1 stands twice; each needs a run of its own"),
        (
            "{strategies: []}",
            "3",
            "mine.yaml:8: methods.plain.set: 3 is not a section with keys (allowed: a mapping from keys to values)",
        ),
        ("{set: {strategies: []}}", "[]", "mine.yaml:8: methods.plain: a list is not a section with keys"),
        ("seeds: [1, 2]", "seeds: []", "mine.yaml:6: seeds: 0 entries given (allowed: a list of at least 1 entry"),
        ("seeds:", "seed:", "mine.yaml:6: unknown key 'seed', did you mean 'seeds'?"),
        ("epochs: 2", "epoch: 2", "mine.yaml:4: training: unknown key 'epoch', did you mean 'epochs'?"),
        ("epochs: 2", "epochs: few", "mine.yaml:4: training.epochs: 'few' is not a number"),
        ("migu.mask: update", "mig.mask: update", "mine.yaml:9: strategies.mig.mask: the recipe has no strategy named"),
        ("update", "updates", "mine.yaml:9: strategies.migu.mask: 'updates' is not one of the choices"),
        ("quickstart", "quikstart", "mine.yaml:2: recipe: no recipe 'quikstart', did you mean 'quickstart'?"),
        ("plain:", "validation:", "mine.yaml:8: methods.validation: is the folder of the runs by which"),
        ("plain:", "Masked:", "mine.yaml:7: methods: two names differ in case only"),
        (
            "plain:",
            "a/b:",
            "mine.yaml:7: methods: the key 'a/b' does not fit (allowed: letters, digits, dots, dashes and underscores,",
        ),
        (
            "strategies.migu.mask: update, tuning: {method: lora, rank: 2}",
            "strategies: []",
            "its runs are those of 'plain'",
        ),
        (
            "{set: {strategies: []}}",
            "{rates: [1e-3]}",
            "methods.plain.rates: needs `rates`, which says how one of them",
        ),
        ("seeds:", "orders: [4]\nseeds:", "mine.yaml:6: benchmark.order: 'sample' has no order 4"),
        (
            "seeds:",
            "rates: {values: [1e-3, 0.001]}\nseeds:",
            "mine.yaml:6: rates.values: 0.001 stands twice; each needs",
        ),
        (
            "seeds:",
            "rates: {values: [1e-3], choose: all, seeds: [7]}\nseeds:",
            "mine.yaml:6: rates.seeds: has no effect, since `choose: all` chooses no rate; remove it",
        ),
        (
            "seeds:",
            "  training.learning_rate: 1\nrates: {values: [1e-3]}\nseeds:",
            "mine.yaml:6: set.training.learning_rate: has no effect, since `rates` gives it; remove it",
        ),
        (
            "{strategies: []}",
            "{strategies: [], seed: 9}",
            "mine.yaml:8: methods.plain.set.seed: has no effect, since `seeds` gives it; remove it",
        ),
        (
            "seeds:",
            "  benchmark.order: 2\norders: [1, 2]\nseeds:",
            "mine.yaml:6: set.benchmark.order: has no effect, since `orders` gives it; remove it",
        ),
        (
            "seeds:",
            "  data.validation_share: 0.1\n  evaluation.split: validation\nrates: {values: [1e-3, 1e-2]}\nseeds:",
            "mine.yaml:11: methods.plain: is tested on the validation split, by which its rate is chosen; set",
        ),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(old: str, new: str, message: str) -> None:
    assert old in SUITE
    with pytest.raises(RecipeError) as caught:
        planned(SUITE.replace(old, new))
    assert message in caught.value.problems[0]


def test_an_override_changes_a_method_that_there_is_or_gives_a_whole_one() -> None:
    with pytest.raises(RecipeError) as caught:
        planned(SUITE, "methods.plan.set.training.epochs=3")
    assert caught.value.problems == [
        "command line: methods.plan.set.training.epochs: the suite has no method named 'plan', did you mean 'plain'? "
        "(it has: plain, masked)"
    ]
    own = planned(SUITE, "methods.own={set: {training.epochs: 3}}", "methods.own.set.training.epochs=4")
    assert [run.recipe.training.epochs for run in runs(own)][:3] == [2, 2, 4]
    whole = planned(SUITE, "methods={own: {set: {training.epochs: 3}}}", "methods.own.set.training.epochs=5")
    assert [run.recipe.training.epochs for run in runs(whole)][-1] == 5


def test_what_extends_a_suite_or_changes_it_may_overrule_what_stands_there(tmp_path: Path) -> None:
    text = SUITE.replace("set:", "set:\n  training.learning_rate: 1e-3", 1)
    text = text.replace("seeds:", "  data.validation_share: 0.1\nseeds:")
    rates = {run.rate for run in runs(planned(text, "rates={values: [1e-4, 2e-4], choose: all}"))}
    assert rates == {1e-4, 2e-4}
    Path("child.yaml").write_text("extends: mine.yaml\nrates: {values: [1e-4], choose: all}\n")
    assert {run.rate for run in runs(PlannedSuite.load("child.yaml"))} == {1e-4}
    chosen = SUITE + "rates: {values: [1e-3, 1e-2], seeds: [7]}\n"
    chosen = chosen.replace("seeds:", "  data.validation_share: 0.1\nseeds:", 1)
    assert len(runs(planned(chosen, "rates.choose=all"))) == 8
    with pytest.raises(RecipeError, match=r"command line: set\.seed: has no effect, since `seeds` gives it"):
        planned(SUITE, "set.seed=9")


def launches(file: Path) -> list[str]:
    """The lines of a file that change a suite."""
    text = re.sub(r"\\\n#? *", "", file.read_text("utf-8"))
    return [line for line in re.findall(r"clkit sweep \w+[^`\n]*", text) if "=" in line]


EVIDENCE = Path(__file__).parents[2] / "benchmarks" / "README.md"
LAUNCHES = [line for file in (*shipped_suites().values(), EVIDENCE) for line in launches(file)]


@pytest.mark.parametrize("line", [line for line in LAUNCHES if "row_scores" not in line])  # its file is not here
def test_every_launch_line_of_the_suites_and_of_the_evidence_loads(line: str) -> None:
    _, _, name, *words = shlex.split(line)
    only = [word for before, word in pairwise(words) if before == "--only"]
    assert PlannedSuite.load(name, [word for word in words if re.match(r"[a-z_.]+=", word)], only=only)


def test_a_recipe_is_no_suite() -> None:
    with pytest.raises(UsageError, match=r"'quickstart' is no suite, .* `clkit train quickstart`"):
        PlannedSuite.load("quickstart")


@pytest.mark.parametrize("name", shipped_suites())
def test_every_shipped_suite_can_be_planned_and_its_commands_train_that(name: str) -> None:
    suite = PlannedSuite.load(name)
    assert suite.name == name
    assert name not in shipped_recipes()
    for run in [*suite.validation_runs(), *runs(suite)]:
        assert trained(run) == run.recipe
    assert runs(PlannedSuite.load(name, smoke=True))


def test_the_published_numbers_are_those_of_the_recipes() -> None:
    text = Path(__file__).parents[2].joinpath("benchmarks/README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| .* \| (\S+) \| (\S+) \| .* `clkit sweep t5_table --only (\w+)` \| `(\w+)` \|$", text, re.MULTILINE
    )
    suite = PlannedSuite.load("t5_table").suite
    assert {(name, method.recipe) for name, method in suite.methods.items()} >= {row[2:] for row in rows}
    assert len(rows) == 16
    for *numbers, _, recipe in rows:
        headers = "".join(shipped_recipes()[name].read_text("utf-8") for name in (recipe, *SIX_ORDERS.get(recipe, ())))
        assert all(number in (*re.findall(r"\d\d\.\d", headers), "–") for number in numbers)


#: Whose numbers of orders 4 to 6 stand in another recipe.
SIX_ORDERS = {"t5_order1": ["t5_order4"], "t5_olora": ["t5_olora_order6"], "t5_olora_migu": ["t5_olora_migu_order6"]}


def test_only_some_methods() -> None:
    planned()
    assert [run.method for run in runs(PlannedSuite.load("mine.yaml", only=["masked"]))] == ["masked", "masked"]
    with pytest.raises(UsageError, match="no method named 'mask', did you mean 'masked'"):
        PlannedSuite.load("mine.yaml", only=["mask"])
    text = SUITE + "rates: {values: [1e-3], choose: equal_learning, like: plain}\n"
    with pytest.raises(UsageError, match="give --only plain too"):
        PlannedSuite.load(
            planned(text.replace("set:", "set:\n  data.validation_share: 0.1", 1)) and "mine.yaml", only=["masked"]
        )
