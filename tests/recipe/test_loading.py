"""Loading a recipe: by path or shipped name, with `extends`, overrides, and paths relative to where they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clkit.errors import RecipeError, UsageError
from clkit.recipe.recipe import Recipe

BASE = """\
name: base
model: {name: embedded:tiny-t5}
tasks:
  - {name: tickets, source: {kind: files, train: data/train.csv, test: data/test.csv}}
  - {name: v1.2, source: {kind: sample, task: topics}}
tuning: {method: lora, rank: 4}
strategies: [{name: migu, threshold: 0.6}]
training: {batch_size: 8, learning_rate: 1e-4}
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`base.yaml` in a folder of its own; the current folder is another one."""
    folder, here = tmp_path / "recipes", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (folder / "base.yaml").write_text(BASE)
    return folder / "base.yaml"


def child_of(base: Path, text: str) -> Path:
    path = base.with_name("child.yaml")
    path.write_text(f"extends: base.yaml\nname: child\n{text}")
    return path


def problems(source: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source, overrides)
    return caught.value.problems


@pytest.mark.parametrize("name", ["t5_order1", "t5_order1.yaml"])
def test_shipped_name(name: str) -> None:
    assert Recipe.load(name).name == "t5_order1"


def test_an_existing_file_comes_before_a_shipped_name(base: Path) -> None:
    Path("t5_order1").write_text(BASE)
    assert Recipe.load("t5_order1").name == "base"


def test_a_folder_does_not_hide_a_shipped_name(base: Path) -> None:
    Path("t5_order1").mkdir()
    assert Recipe.load("t5_order1").name == "t5_order1"


def test_a_pipe_is_a_recipe_too(base: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"extends: quickstart\nname: piped\n")
    os.close(writer)
    assert Recipe.load(f"/dev/fd/{reader}").name == "piped"
    os.close(reader)


def test_an_unknown_name_is_answered_with_a_guess_and_where_the_list_is() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.load("quikstart")
    assert str(caught.value) == (
        "no recipe 'quikstart', did you mean 'quickstart'? "
        "(give a file's path, or a shipped recipe: `clkit ls recipes`)"
    )


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no recipe file '.*/none\.yaml'; correct the path, or name a shipped"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"^'.*' is a folder; name a recipe file in it$"):
        Recipe.load(tmp_path)


def test_yaml_is_read_as_yaml_1_2(base: Path) -> None:
    recipe = Recipe.load(base, ["tasks.tickets.labels=[yes, no, 12:30]", "training.learning_rate=3e-4"])
    assert recipe.tasks is not None
    assert recipe.tasks[0].labels == ["yes", "no", "12:30"]
    assert recipe.training.learning_rate == 3e-4


def test_paths_start_where_they_are_written(base: Path) -> None:
    recipe = Recipe.load(base, ["tasks.tickets.source.test=mine.csv"])
    source = Recipe.load(base).task_recipes()[0].source
    assert source.train == str(base.parent / "data/train.csv")  # type: ignore[union-attr]
    assert recipe.task_recipes()[0].source.test == str(Path.cwd() / "mine.csv")  # type: ignore[union-attr]


def test_a_link_to_a_file_keeps_its_name_and_one_to_a_folder_does_not(base: Path) -> None:
    """As caches and version control of data lay them: the name that says what is in it is the link's."""
    kept = base.parent / "kept"
    kept.mkdir()
    (kept / "blob123").write_text("text,label\n")
    (base.parent / "named.csv").symlink_to(kept / "blob123")
    (base.parent / "linked").symlink_to(kept)
    overrides = [f"tasks.tickets.source.train={base.parent}/linked/../named.csv", f"model.name={base.parent}/linked"]
    recipe = Recipe.load(base, overrides)
    assert recipe.task_recipes()[0].source.train == str(base.parent / "named.csv")  # type: ignore[union-attr]
    assert recipe.model.name == str(kept)


def test_an_inherited_path_starts_at_the_parent(base: Path) -> None:
    path = base.parent / "deeper" / "child.yaml"
    path.parent.mkdir()
    path.write_text("extends: ../base.yaml\nname: child\n")
    source = Recipe.load(path).task_recipes()[0].source
    assert source.train == str(base.parent / "data/train.csv")  # type: ignore[union-attr]


def test_a_model_that_is_a_folder_beside_the_recipe(base: Path) -> None:
    (base.parent / "my-t5").mkdir()
    path = child_of(base, "model: {name: my-t5}")
    assert Recipe.load(path).model.name == str(base.parent / "my-t5")
    assert Recipe.load(path, ["model.name=my-t5"]).model.name == "my-t5"  # no such folder here: a hub name


def test_extends_merges_sections_and_replaces_lists(base: Path) -> None:
    recipe = Recipe.load(child_of(base, "training: {batch_size: 4}\nstrategies: [{name: migu, mask: update}]"))
    assert (recipe.training.batch_size, recipe.training.learning_rate) == (4, 1e-4)
    assert recipe.strategies[0].model_dump()["mask"] == "update"
    assert recipe.strategies[0].model_dump()["threshold"] == 0.7  # the default: the parent's 0.6 went with its list


@pytest.mark.parametrize("text", ["benchmark: {name: sample}", "tasks:\nbenchmark: {name: sample}"])
def test_a_benchmark_replaces_inherited_tasks(base: Path, text: str) -> None:
    recipe = Recipe.load(child_of(base, text))
    assert recipe.tasks is None
    assert recipe.benchmark is not None


def test_tasks_replace_an_inherited_benchmark() -> None:
    recipe = Recipe.load("quickstart", ["tasks=[{name: a, source: {kind: sample, task: topics}}]"])
    assert recipe.benchmark is None
    assert [task.name for task in recipe.task_recipes()] == ["a"]


def test_another_tuning_method_replaces_the_inherited_tuning(base: Path) -> None:
    assert Recipe.load(child_of(base, "tuning: {method: full}")).tuning.model_dump() == {"method": "full", "freeze": []}
    kept = Recipe.load(child_of(base, "tuning: {method: lora, alpha: 8}")).tuning.model_dump()
    assert (kept["rank"], kept["alpha"]) == (4, 8)


@pytest.mark.parametrize(
    "overrides", [["tuning.rank=2", "tuning.method=lora"], ["tuning.method=lora", "tuning.rank=2"]]
)
def test_the_order_of_overrides_of_one_section_does_not_matter(overrides: list[str]) -> None:
    assert Recipe.load("quickstart", overrides).tuning.model_dump()["rank"] == 2


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=2", ("training", "epochs"), 2),
        ("training.micro_batch_size=null", ("training", "micro_batch_size"), None),
        ("strategies=[]", ("strategies",), []),
        ("strategies.migu.threshold=0.5", ("strategies", 0, "threshold"), 0.5),
        ("tasks.tickets.instruction=a=b", ("tasks", 0, "instruction"), "a=b"),
        ("tasks.v1.2.labels=[a, b]", ("tasks", 1, "labels"), ["a", "b"]),
        ("tasks.v1.2={name: w, source: {kind: sample, task: topics}}", ("tasks", 1, "name"), "w"),
        ("training={epochs: 3}", ("training", "epochs"), 3),
        ("training.per_task.tickets.epochs=3", ("training", "per_task", "tickets", "epochs"), 3),
    ],
)
def test_overrides(base: Path, override: str, path: tuple[str | int, ...], value: object) -> None:
    found = Recipe.load(base, [override]).model_dump()
    for key in path:
        found = found[key]
    assert found == value


def test_the_later_of_two_overrides_holds(base: Path) -> None:
    assert Recipe.load(base, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "'seed' is no override; write key=value without spaces, as in training.epochs=2"),
        ("=3", "'=3' is no override; write key=value without spaces, as in training.epochs=2"),
        ("a..b=3", "'a..b=3' is no override; write key=value without spaces, as in training.epochs=2"),
        ("seed=", "seed: no value after '='; write seed=null to unset it"),
        ("seed=[1", "seed: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed={a: 1, a: 2}", "seed: not valid YAML: the key 'a' stands twice"),
        ("seed=x", "seed: 'x' is not a whole number (allowed: a whole number from 0, below 4294967296)"),
        (
            "strategies.mig.threshold=0.5",
            "strategies.mig.threshold: the recipe has no strategy named 'mig', did you mean 'migu'? (it has: migu)",
        ),
        ("tasks.other.labels=[a]", "tasks.other.labels: the recipe has no task named 'other' (it has: tickets, v1.2)"),
        (
            "strategies.migu.threshold=2",
            "strategies.migu.threshold: 2 is out of range (allowed: a number above 0, below 1)",
        ),
    ],
)
def test_wrong_overrides(base: Path, override: str, expected: str) -> None:
    assert problems(base, override) == [f"command line: {expected}"]


def test_overriding_a_strategy_where_there_are_none(base: Path) -> None:
    assert problems(base, "strategies=[]", "strategies.migu.threshold=0.5") == [
        "command line: strategies.migu.threshold: the recipe has no strategy named 'migu' (it has no strategies)"
    ]


def test_all_wrong_overrides_are_listed(base: Path) -> None:
    assert len(problems(base, "seed", "model.name=", "strategies.x.y=1")) == 3


def test_extends_cannot_lead_back(base: Path) -> None:
    path = base.with_name("a.yaml")
    path.write_text("name: a\nextends: b.yaml\n")
    base.with_name("b.yaml").write_text("extends: a.yaml\n")
    shown = base.with_name("b.yaml")
    assert problems(path) == [f"{shown}:1: extends: a recipe cannot extend itself (a.yaml -> b.yaml -> a.yaml)"]


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("[a, b]", "give a shipped name, or a path from this file's folder"),
        (
            "sub/none.yaml",
            "no recipe file 'sub/none.yaml'; correct the path, or name a shipped recipe (`clkit ls recipes`)",
        ),
        ("..", "'..' is a folder; name a recipe file in it"),
    ],
)
def test_wrong_extends(base: Path, parent: str, expected: str) -> None:
    path = base.with_name("child.yaml")
    path.write_text(f"name: child\nextends: {parent}\n")
    assert problems(path) == [f"{path}:2: extends: {expected}"]


def test_paths_of_a_shipped_recipe_start_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody keeps data inside the installed package."""
    monkeypatch.chdir(tmp_path)
    source = Recipe.load("roberta_das").task_recipes()[0].source
    assert source.model_dump()["train"] == str(tmp_path / "das" / "restaurant.jsonl")
    copy = tmp_path / "mine" / "das.yaml"
    copy.parent.mkdir()
    copy.write_text(
        "extends: roberta_das\nname: das\ntasks:\n  - {name: a, source: {kind: files, train: a.txt, test: b.txt}}\n"
    )
    source = Recipe.load(copy).task_recipes()[0].source
    assert source.model_dump()["train"] == str(tmp_path / "mine" / "a.txt")


@pytest.mark.parametrize("override", ["tuning={freeze: [norms]}", "tuning={}", "objective={}"])
def test_what_fits_the_default_needs_no_method(override: str) -> None:
    recipe = Recipe.load("quickstart", [override])
    assert (recipe.tuning.method, recipe.objective.kind) == ("full", "text_to_text")


def test_a_special_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")  # nobody writes into it, so that to open it would be to wait for ever
    Path("child.yaml").write_text("extends: pipe\n")
    for source in ("pipe", "child.yaml"):
        with pytest.raises(RecipeError, match=r"^pipe: is not a file with text but a named pipe$"):
            Recipe.load(source)
    with pytest.raises(RecipeError, match=r"^/dev/zero: is not a file with text but a device$"):
        Recipe.load("/dev/zero")


def test_a_recipe_has_a_limit(tmp_path: Path) -> None:
    text = f"extends: quickstart\n{'#' * 999_979}\n"
    (tmp_path / "long.yaml").write_text(text)
    assert Recipe.load(tmp_path / "long.yaml").name == "quickstart"
    (tmp_path / "long.yaml").write_text(f"{text}#")
    with pytest.raises(RecipeError, match="holds more than 1,000,000 bytes"):
        Recipe.load(tmp_path / "long.yaml")
