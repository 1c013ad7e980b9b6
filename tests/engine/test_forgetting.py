"""`clkit forget-data`: no text of the task is left, all else is, and what was cut short can be repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clkit.cli.forget_data import forget_data as verb
from clkit.cli.predictions import predictions
from clkit.engine import forgetting
from clkit.engine.evaluate import evaluate
from clkit.engine.forgetting import forget_data
from clkit.engine.sequence import train
from clkit.errors import RunError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.report.answers import read_examples
from clkit.run.doctor import advice, examine, is_whole
from clkit.run.filled import add_filled
from clkit.run.folder import RunFolder
from tests.cli.verbs import call
from tests.interrupting import stop
from tests.toy import Finished, ToyRecipe

REPLAY = [{"name": "replay", "share": 0.5}, {"name": "ewc"}]


@pytest.fixture
def recipe(toy: ToyRecipe) -> Recipe:
    return toy(strategies=REPLAY)


@pytest.fixture
def run(recipe: Recipe, finished: Finished, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished(recipe).path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def texts_of(recipe: Recipe, task: str) -> list[str]:
    """All of its inputs that are long enough not to stand in another's by chance."""
    (source,) = (one.source for one in recipe.task_recipes() if one.name == task)
    lines = [line for path in (source.train, source.test) for line in Path(path).read_text("utf-8").splitlines()]
    return [text for line in lines if len(text := json.loads(line)["text"]) > 20]


def found_in(run: RunFolder, texts: list[str]) -> list[str]:
    files = [path for path in run.path.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    return [str(path) for path in files if any(text in path.read_text("utf-8") for text in texts)]


def take_out(run: RunFolder) -> None:
    assert forget_data(run, "first", lambda kept: True) is not None


def test_no_text_is_left_and_nothing_else_is_changed(run: RunFolder, recipe: Recipe) -> None:
    texts, others = texts_of(recipe, "first"), texts_of(recipe, "second")
    later = evaluate(run, stage="1", tasks=["first", "second"])
    done = {one.index: one.payload for one in run.stages()}
    records = [record for one in later for record in one.records()]
    add_filled(run.path, done, 1, {"exact_match": {"second": 0.25}}, records)
    run.export()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    scores, right = (
        run.read_matrix(),
        [[answer["correct"] for answer in one.answers.values()] for one in read_examples(run)],
    )
    assert scores.rows[0][1] == 0.25
    assert len(found_in(run, texts)) == 6  # replay's memory of both tasks, the tests of three stages and the later one
    assert call(verb, str(run.path), "--task", "first", "--yes").exception is None
    assert found_in(run, texts) == []
    assert found_in(run, others)
    assert run.read_matrix() == scores
    assert [[answer["correct"] for answer in one.answers.values()] for one in read_examples(run)] == right
    assert is_whole([*examine(run.path)])
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"done.json", "predictions.jsonl", "strategies.json", "env.json", "log.jsonl", "filled.json"}
    assert [set(stage.payload["forgotten"]) for stage in run.stages()] == [{"first"}] * 3
    assert call(predictions, str(run.path)).exception is None
    take_out(run)  # again, when there is nothing left
    assert is_whole([*examine(run.path)])


def test_what_was_killed_can_be_repeated(run: RunFolder, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = forgetting.write_atomically, [0]

    def dies(path: Path, content: str) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    for files in (0, 1, 2):
        left[0] = files
        with monkeypatch.context() as patched:
            patched.setattr(forgetting, "write_atomically", dies)
            with pytest.raises(KeyboardInterrupt):
                take_out(run)
        found = [*examine(run.path)]
        assert any(one.state == "changed" for one in found)
        assert f"`clkit forget-data {run.path} --task first` was cut short: repeat it" in str(advice(run.path, found))
        with pytest.raises(RunError, match="repeat it"):
            train(recipe, run.path, resume=True)
    take_out(run)
    assert is_whole([*examine(run.path)])
    assert found_in(run, texts_of(recipe, "first")) == []


def test_a_run_goes_on_without_what_it_has_forgotten(recipe: Recipe, tmp_path: Path) -> None:
    stop(recipe, tmp_path / "run", "second", 3)
    run = RunFolder.open(tmp_path / "run")
    assert [*run.path.glob("tasks/02-second/checkpoints/*")]
    take_out(run)
    assert not (run.path / "tasks/02-second").exists()
    train(recipe, run.path, resume=True)
    assert found_in(run, texts_of(recipe, "first")) == []
    assert run.read_matrix().in_progress is None
    assert is_whole([*examine(run.path)])


def test_damage_is_no_cut_short_call(run: RunFolder) -> None:
    path = run.stages()[-1].folder / "predictions.jsonl"
    content = path.read_text("utf-8").replace('"correct": true', '"correct": false').encode()
    path.write_bytes(content + b"\n")
    with pytest.raises(RunError, match="is changed"):
        take_out(run)
    assert "forgetting" not in run.environment()


def test_nothing_is_done_unasked(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    refused = call(verb, str(run.path), "--task", "first").exception
    assert isinstance(refused, UsageError)
    assert "--yes" in str(refused)
    unknown = call(verb, str(run.path), "--task", "frist", "--yes").exception
    assert "did you mean 'first'" in str(unknown)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_of_free_answers_neither_the_right_one_nor_the_given_is_kept(toy: ToyRecipe, tmp_path: Path) -> None:
    tasks = [task.model_dump(exclude={"labels"}) | {"answers": "free"} for task in toy().task_recipes()]
    run = train(toy(protocol="zero_shot", tasks=tasks), tmp_path / "run")
    take_out(run)
    records = [example.answers["zero-shot"] for example in read_examples(run)]
    for record in records:
        taken = record["task"] == "first"
        assert [record[name] is None for name in ("text", "gold", "prediction")] == [taken] * 3
    assert "taken out" in call(predictions, str(run.path)).stdout
