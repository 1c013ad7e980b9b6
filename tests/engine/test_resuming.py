"""What `--resume` goes on from: the run's recipe, its data and model, and files that are as they were written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clkit.engine.evaluate import evaluate
from clkit.engine.growing import refuse_changed_recipe
from clkit.engine.resuming import is_finished
from clkit.engine.sequence import dry_run, train
from clkit.errors import DataError, RunError, UsageError
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.atomic import write_json
from clkit.run.doctor import examine, is_whole
from clkit.run.folder import RunFolder
from clkit.run.layout import TRAINED_FILE
from clkit.run.seal import Done, seal_files, text_sha256
from clkit.section import NOT_THE_RESULT, Section
from tests.engine.test_sequence import SHORT, Heard
from tests.interrupting import assert_same
from tests.toy import Finished, ToyRecipe, toy_recipe

LORA = {"method": "lora", "rank": 2}


class TestRecipe:
    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFolder:
        return RunFolder.create(tmp_path / "run", recipe_yaml(Recipe.load("quickstart")), {})

    def test_the_same_recipe(self, run: RunFolder) -> None:
        assert refuse_changed_recipe(run, Recipe.load("quickstart")) == ([], [])

    def test_what_does_not_decide_the_result_may_differ(self, run: RunFolder) -> None:
        changed = Recipe.load("quickstart", ["saving.models=last", "training.log_every=3"])
        assert refuse_changed_recipe(run, changed) == (["training.log_every", "saving.models"], [])

    def test_what_decides_it_may_not(self, run: RunFolder) -> None:
        changed = Recipe.load(
            "quickstart", ["saving.models=last", "training.epochs=7", "evaluation.batch_size=5", "name=other"]
        )
        with pytest.raises(UsageError, match=r"these keys differ: name, training\.epochs, evaluation\.batch_size;"):
            refuse_changed_recipe(run, changed)

    def test_a_key_that_this_clkit_does_not_know(self, run: RunFolder) -> None:
        write_json(run.recipe_path, {**run.recipe(), "optimizer": "lion"})  # JSON is YAML
        digest = text_sha256(run.recipe_yaml())
        write_json(run.env_path, {**run.environment(), "versions": {"clkit": "9.1"}, "recipe_sha256": digest})
        with pytest.raises(
            RunError, match=r"unknown key 'optimizer'.*; the run was made by clkit 9\.1: go on with that"
        ):
            refuse_changed_recipe(run, Recipe.load("quickstart"))

    def test_a_recipe_that_was_edited(self, run: RunFolder) -> None:
        run.recipe_path.write_text(run.recipe_yaml() + "\n")
        with pytest.raises(RunError, match=r"recipe\.yaml was changed after the run began"):
            refuse_changed_recipe(run, Recipe.load(run.recipe_path))

    def test_each_key_that_may_differ_says_so(self) -> None:
        def marked(section: type[Section]) -> Iterator[str | None]:
            for field in section.model_fields.values():
                if NOT_THE_RESULT in field.metadata:
                    yield field.description
                elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                    yield from marked(field.annotation)

        descriptions = list(marked(Recipe))
        assert len(descriptions) == 4
        assert all(text and text.endswith("May differ on `--resume`.") for text in descriptions)


@pytest.fixture
def begun(tmp_path: Path, flat_t5: Path, finished: Finished) -> tuple[Recipe, RunFolder]:
    """A recipe whose data and model are the test's own, and its run, of which the second task is not done."""
    model = tmp_path / "model"
    shutil.copytree(flat_t5, model)
    recipe = toy_recipe(tmp_path, model, tuning=LORA, **SHORT)
    run = train(recipe, tmp_path / "run")
    shutil.rmtree(run.stage_folder(2, "second"))
    return recipe, run


def rewrite(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def swap(rows: list[dict[str, str]]) -> None:
    first, second = rows[0]["label"], rows[1]["label"]
    for row in rows:
        row["label"] = second if row["label"] == first else first


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("second-train.jsonl", lambda path: rewrite(path, swap), r"tasks\.second\.train \(.*second-train\.jsonl: 24"),
        ("first-train.jsonl", lambda path: rewrite(path, lambda rows: rows.pop()), r"tasks\.first\.train \(.*: 23 ex"),
        ("first-test.jsonl", lambda path: rewrite(path, lambda rows: rows[4:]), None),
        ("first-test.jsonl", lambda path: rewrite(path, lambda rows: rows.reverse()), r"tasks\.first\.test \(.*first"),
        ("model/model.safetensors", flip, r"model\.model\.safetensors \(.*model: .* bytes"),
        ("model/tokenizer.json", lambda path: path.write_text(path.read_text() + "\n"), r"model\.tokenizer\.json \("),
        ("model/README.md", lambda path: path.write_text("# Mine\n"), None),
    ],
)
def test_other_data_or_another_model_is_refused_before_anything_is_trained(
    begun: tuple[Recipe, RunFolder], tmp_path: Path, file: str, change: Callable[[Path], object], said: str | None
) -> None:
    recipe, run = begun
    change(tmp_path / file)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    if said is None:
        dry_run(recipe, run.path)
        return
    for attempt in (lambda: dry_run(recipe, run.path), lambda: train(recipe, run.path, resume=True)):
        with pytest.raises(UsageError, match=f"not what the run read: {said}.*--accept-changes") as refused:
            attempt()
        assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_changes_that_are_accepted_are_recorded(begun: tuple[Recipe, RunFolder], tmp_path: Path) -> None:
    recipe, run = begun
    rewrite(tmp_path / "first-test.jsonl", lambda rows: rows.pop())
    heard = Heard()
    train(recipe, run.path, resume=True, accept_changes=True, listener=heard)
    (remark,) = [remark for remark in heard.remarks if remark.startswith("accepted: ")]
    assert remark.startswith("accepted: tasks.first.test (")
    (resumed,) = [line for line in run.log.read() if line["event"] == "resumed"]
    (recorded,) = run.environment()["accepted"]
    assert recorded["changes"] == resumed["accepted"] == [remark.removeprefix("accepted: ")]
    matrix, damage, notes = run.scores()
    assert (matrix.counts, damage) == ([23, 24], [])
    assert notes == [f"{run.path}: tasks.first.test changed before stage 2: scores before and after do not compare"]
    assert run.read_matrix().in_progress is None
    train(recipe, run.path, resume=True)  # what was accepted is what the run read from now on


def test_rows_that_a_limit_leaves_out_may_change(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, data={"train_per_task": 8, "test_per_task": 8}, **SHORT)
    run = train(recipe, tmp_path / "run")
    shutil.rmtree(run.stage_folder(2, "second"))
    used = {text for task in load_tasks(recipe) for text in task.train["text"]}

    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            if row["text"] not in used:
                row["text"] += " w9"

    rewrite(tmp_path / "second-train.jsonl", change)
    train(recipe, run.path, resume=True)
    assert len(run.stages()) == 2


def test_training_data_of_finished_tasks_may_be_gone(tmp_path: Path, flat_t5: Path) -> None:
    """Their labels are those that were read of them; the tests tell nothing of `w9` here."""
    recipe = toy_recipe(tmp_path, flat_t5, **SHORT)
    told = recipe.model_dump(mode="json")
    told["tasks"][0]["labels"] = None
    recipe = Recipe.model_validate(told)
    rewrite(tmp_path / "first-train.jsonl", lambda rows: rows[0].update(label="w9"))
    for split in ("train", "test"):  # the most frequent label, by which chance goes, is the last that is read
        rewrite(tmp_path / f"first-{split}.jsonl", lambda rows: [row.update(label="w8") for row in rows[1:18]])
    kept = train(recipe, tmp_path / "kept")
    gone = RunFolder.open(shutil.copytree(kept.path, tmp_path / "gone"))
    shutil.rmtree(gone.stage_folder(2, "second"))
    (tmp_path / "first-train.jsonl").unlink()
    plan = dry_run(recipe, gone.path)
    assert "task 'first': its training data are gone; it is only tested" in plan.remarks
    assert plan.examples == [(None, 24), (24, 24)]
    assert (plan.labels[0]["w9"], plan.labels[1]) == (None, {"w3 w4": 12, "w5": 12})
    assert_same(train(recipe, gone.path, resume=True), kept)
    assert len(evaluate(gone)) == 2
    assert gone.environment()["read"] == kept.environment()["read"]

    shutil.rmtree(gone.stage_folder(2, "second"))
    (tmp_path / "second-train.jsonl").unlink()
    with pytest.raises(DataError, match=r"second-train\.jsonl: no such file"):
        train(recipe, gone.path, resume=True)


def test_a_validation_split_is_gone_with_the_training_data(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(
        tmp_path,
        flat_t5,
        **{**SHORT, "data": {"validation_share": 0.5}, "evaluation": {"split": "validation", "zero_shot": False}},
    )
    run = train(recipe, tmp_path / "run")
    file = tmp_path / "first-train.jsonl"
    whole = file.read_text()
    rewrite(file, swap)
    heard = Heard()
    evaluate(run, tasks=["first"], listener=heard)
    (remark,) = [one for one in heard.remarks if "compare" in one]
    assert remark.startswith(f"tasks.first.validation is not what the run was tested on ({file}: ")
    file.unlink()
    shutil.rmtree(run.stage_folder(2, "second"))
    said = f"task 'first': {file} is gone, and evaluation.split: validation tests on a share of its rows; put it back"
    for attempt in (
        lambda: evaluate(run, tasks=["first"]),
        lambda: dry_run(recipe, run.path),
        lambda: train(recipe, run.path, resume=True),
    ):
        with pytest.raises(DataError) as refused:
            attempt()
        assert str(refused.value).startswith(said)
    on_tests = Recipe.load(run.recipe_path, ["evaluation.split=test"])
    (tested,) = evaluate(run, recipe=on_tests, tasks=["first"])  # as the message says
    assert tested.examples == 24
    file.write_text(whole)
    assert len(evaluate(run)) == 2


def test_a_finished_run_needs_neither_data_nor_model(tmp_path: Path, begun: tuple[Recipe, RunFolder]) -> None:
    recipe, run = begun
    train(recipe, run.path, resume=True)
    assert is_finished(run, recipe)
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    shutil.rmtree(tmp_path / "model")
    (run.path / "matrix.json").unlink()
    heard = Heard()
    train(recipe, run.path, resume=True, listener=heard)
    assert heard.remarks == [f"{run.path}: finished before, nothing is trained again"]
    assert is_whole(list(examine(run.path)))


def test_a_finished_run_says_what_is_damaged_and_of_data_that_changed(
    tmp_path: Path, begun: tuple[Recipe, RunFolder]
) -> None:
    recipe, run = begun
    train(recipe, run.path, resume=True)
    rewrite(tmp_path / "first-test.jsonl", lambda rows: rows.pop())
    heard = Heard()
    train(recipe, run.path, resume=True, listener=heard)
    assert any("tasks.first.test is no longer what the run read" in remark for remark in heard.remarks)
    flip(run.stage_folder(1, "first") / "adapter" / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"01-first/adapter/adapter_model\.safetensors is changed.*or remove .*01-first"):
        train(recipe, run.path, resume=True)


def test_a_deleted_log_and_lines_that_are_no_objects_are_told(begun: tuple[Recipe, RunFolder]) -> None:
    recipe, run = begun
    with run.log.path.open("a") as file:
        file.write("null\n")
    number = len(run.log.path.read_text().splitlines())
    heard = Heard()
    train(recipe, run.path, resume=True, listener=heard)
    assert any(f"log.jsonl:{number}: no JSON object" in remark for remark in heard.remarks)
    shutil.rmtree(run.stage_folder(2, "second"))
    run.log.path.unlink()
    heard = Heard()
    train(recipe, run.path, resume=True, listener=heard)
    assert any("log.jsonl is missing" in remark for remark in heard.remarks)
    assert is_whole(list(examine(run.path)))


def test_what_another_version_trained_is_refused_in_one_line(begun: tuple[Recipe, RunFolder]) -> None:
    recipe, run = begun
    folder = run.start_stage(2, "second")
    shutil.copytree(run.stage_folder(1, "first") / "adapter", folder / "adapter")
    Done({"steps": 3, "energy": 1.0}, seal_files(folder)).write(folder, TRAINED_FILE)
    with pytest.raises(RunError, match=r"trained\.json was written by another version of clkit .*remove .*02-second"):
        train(recipe, run.path, resume=True)
    assert (folder / "adapter").is_dir()


def test_a_missing_zero_shot_test_is_never_made_with_a_trained_model(toy: ToyRecipe, tmp_path: Path) -> None:
    recipe = toy(training={"epochs": 0.4})
    run = train(recipe, tmp_path / "run")
    whole = (run.path / "matrix.json").read_bytes()
    shutil.rmtree(run.stage_folder(0, "zero-shot"))
    train(recipe, run.path, resume=True)  # nothing else is needed, so the untrained model is loaded
    assert (run.path / "matrix.json").read_bytes() == whole
    shutil.rmtree(run.stage_folder(0, "zero-shot"))
    shutil.rmtree(run.stage_folder(2, "second"))
    with pytest.raises(RunError, match="00-zero-shot is missing, and only the untrained model"):
        train(recipe, run.path, resume=True)


def test_models_that_are_not_kept_go_although_a_kill_came_between(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, saving={"models": "last"}, **SHORT)
    run = train(recipe, tmp_path / "run")
    first = run.stage_folder(1, "first")
    shutil.copytree(run.stage_folder(2, "second") / "model", first / "model")
    temporary = run.path / f".matrix.json.{os.getpid()}.tmp"
    temporary.write_text("")
    train(recipe, run.path, resume=True)
    assert not (first / "model").exists()
    assert not temporary.exists()
    done = Done.read(first)  # the other moment: the next stage is finished, and this one still says that it has a model
    shutil.copytree(run.stage_folder(2, "second") / "model", first / "model")
    Done(done.payload, seal_files(first)).write(first)
    train(recipe, run.path, resume=True)
    assert not (first / "model").exists()
    assert is_whole(list(examine(run.path)))


def test_of_a_branch_that_has_moved_on_the_hub_the_old_commit_is_taken(flat_t5: Path, tmp_path: Path) -> None:
    """In a process of its own, which finds the hub's cache where its environment says."""
    repo, old, new = tmp_path / "hub" / "models--someone--toy", "a" * 40, "b" * 40
    for part in ("refs", "snapshots"):
        (repo / part).mkdir(parents=True)
    for commit in (old, new):
        (repo / "snapshots" / commit).symlink_to(flat_t5)
    code = f"""
from pathlib import Path
import clkit
from clkit.errors import UsageError
from tests.toy import toy_recipe

here, branch = Path({str(tmp_path)!r}), Path({str(repo / "refs" / "main")!r})
both = toy_recipe(here, Path("someone/toy"))
first = both.model_copy(update={{"tasks": both.tasks[:1]}})
branch.write_text({old!r})
clkit.train(first, here / "run")
branch.write_text({new!r})
try:
    clkit.train(both, here / "run", resume=True)
except UsageError as refused:
    print(refused)
pinned = both.model_copy(update={{"model": both.model.model_copy(update={{"revision": {old!r}}})}})
run = clkit.train(pinned, here / "run", resume=True)
print([stage.name for stage in run.stages()], run.environment()["read"]["model.commit"])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refused, went_on = done.stdout.splitlines()
    assert f"model.commit (someone/toy: {new}, was {old}). Name that commit" in refused
    assert went_on.endswith(f"'first', 'second'] {old}")
