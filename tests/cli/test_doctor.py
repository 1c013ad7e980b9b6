"""`clkit doctor`: every kind of damage is named, a whole run is called whole, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clkit.cli.doctor import doctor
from clkit.errors import RunError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_json
from clkit.run.folder import RunFolder
from clkit.run.layout import TRAINED_FILE, ZERO_SHOT
from clkit.run.lock import locked
from clkit.run.seal import Done, seal_files
from tests.cli.verbs import call


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run of two tasks; tables have room, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return make_run(Path("runs/x-1"))


def make_run(path: Path, learned: int = 2) -> RunFolder:
    run = RunFolder.create(path, "name: x\nseed: 1\n", {"versions": {"clkit": "0.1.0"}})
    header = AccuracyMatrix(tasks=["a", "b"], counts=[4, 4]).header()
    rows = {ZERO_SHOT: [0.0, 0.25], "a": [1.0, None], "b": [0.5, 0.75]}
    for index, (name, row) in enumerate(list(rows.items())[: learned + 1]):
        folder = run.start_stage(index, name)
        (folder / "predictions.jsonl").write_text("{}\n" * index)
        if index:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text(name * 10)
        run.log.append({"event": "evaluated", "stage": name})
        run.finish_stage(index, name, {"row": row, "matrix": header})
    run.export()
    return run


def examined(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and state and note of all that is not whole."""
    done = call(doctor, *arguments, "--json")
    report = json.loads(done.stdout)
    assert report["whole"] is (done.exit_code == 0)
    return done.exit_code, {
        found["path"]: (found["state"], found["note"]) for found in report["checked"] if found["state"] != "whole"
    }


def test_a_whole_run():
    done = call(doctor)
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["runs/x-1"]
    assert ["tasks/02-b", "whole", "2", "files,", "16", "bytes"] in lines
    assert lines[-1] == ["everything", "is", "whole"]
    assert examined("runs/x-1") == (0, {})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FIRST = "tasks/01-a"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda run: flip(run / FIRST / "model/weights"), {f"{FIRST}/model/weights": "changed"}),
        (lambda run: (run / FIRST / "model/weights").write_text("a"), {f"{FIRST}/model/weights": "changed"}),
        (lambda run: shutil.rmtree(run / FIRST / "model"), {f"{FIRST}/model/weights": "missing"}),
        (lambda run: flip(run / FIRST / "done.json"), {f"{FIRST}/done.json": "changed"}),
        (lambda run: (run / FIRST / "done.json").write_text("["), {f"{FIRST}/done.json": "changed"}),
        (lambda run: (run / FIRST / "done.json").unlink(), {f"{FIRST}/done.json": "missing"}),
        (lambda run: shutil.rmtree(run / FIRST), {"tasks/01-*": "missing"}),
        (lambda run: flip(run / "recipe.yaml"), {"recipe.yaml": "changed"}),
        (lambda run: (run / "recipe.yaml").unlink(), {"recipe.yaml": "missing"}),
        (lambda run: (run / "matrix.json").unlink(), {"matrix.json": "missing"}),
        (lambda run: (run / "matrix.json").write_text("{"), {"matrix.json": "changed"}),
        (lambda run: (run / "metrics.json").unlink(), {"metrics.json": "missing"}),
        (lambda run: (run / "metrics.json").write_text('{"bwt": {"value": 0}}'), {"metrics.json": "changed"}),
        (lambda run: (run / "metrics.json").write_text('{"bwt": 0}'), {"metrics.json": "changed"}),
        (lambda run: (run / "matrix.json").write_text('{"rows": []}'), {"matrix.json": "changed"}),
        (lambda run: (run / "log.jsonl").write_bytes(b'{}\n{"a": \n'), {"log.jsonl": "changed"}),
        (lambda run: (run / "log.jsonl").write_bytes(b"{}\nnull\n"), {"log.jsonl": "changed"}),
        (lambda run: (run / "log.jsonl").unlink(), {"log.jsonl": "missing"}),
        (lambda run: (run / "env.json").unlink(), {"env.json": "missing", "recipe.yaml": "unchecked"}),
        (lambda run: (run / "env.json").write_text("{"), {"env.json": "changed", "recipe.yaml": "unchecked"}),
        (
            lambda run: (run / "env.json").write_text('{"format": "two"}'),
            {"env.json": "changed", "recipe.yaml": "unchecked"},
        ),
        (
            lambda run: shutil.copytree(run / FIRST, run / "tasks/01-c"),
            {FIRST: "changed", "tasks/01-c": "changed", "tasks/01-c/done.json": "changed"},
        ),
    ],
)
def test_each_kind_of_damage_is_named(run: RunFolder, damage: Callable[[Path], object], found: dict[str, str]):
    damage(run.path)
    code, problems = examined("runs/x-1")
    assert {path: state for path, (state, _) in problems.items()} == found
    assert code == 1


def test_an_interrupted_stage():
    run = make_run(Path("runs/y-1"), learned=1)
    folder = run.start_stage(2, "b")
    for checkpoint in ("step-10", "step-20"):
        (folder / "checkpoints" / checkpoint).mkdir(parents=True)
    assert examined("runs/y-1") == (
        1,
        {
            "tasks": ("unfinished", "run in progress: 1 of 2 tasks learned"),
            "tasks/02-b": ("unfinished", "2 checkpoints"),
        },
    )
    assert "clkit train runs/y-1/recipe.yaml --run runs/y-1 --resume` goes on" in call(doctor, "runs/y-1").stdout


def test_nothing_evaluated_yet():
    RunFolder.create("runs/y-1", "name: y\n", {})
    assert examined("runs/y-1") == (1, {"tasks": ("unfinished", "nothing was evaluated so far")})


def test_a_run_being_written(run: RunFolder):
    with locked(run.path):
        code, problems = examined()
    assert code == 1
    assert problems["lock.json"][0] == "unfinished"
    assert problems["lock.json"][1].startswith("locked by process ")


def test_files_of_the_users_do_no_harm(run: RunFolder):
    (run.path / "notes.txt").write_text("")
    (run.path / "tasks" / "plots").mkdir()
    (run.path / FIRST / "model" / "extra.txt").write_text("")
    (run.path / "inspect").mkdir()
    assert examined() == (
        0,
        dict.fromkeys(["notes.txt", "tasks/plots", f"{FIRST}/model/extra.txt"], ("unknown", "")),
    )


def test_a_model_that_was_not_kept_is_not_missing(run: RunFolder):
    run.drop_model(run.stage_folder(1, "a"))
    assert examined() == (0, {})
    assert "1 file, 3 bytes, the model not kept (saving.models: last)" in call(doctor).stdout


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (
            lambda run: flip(run / FIRST / "model/weights"),
            "or remove runs/x-1/tasks/01-a and the stages after it and make it anew: `clkit train",
        ),
        (lambda run: (run / "matrix.json").unlink(), "--resume` writes matrix.json and metrics.json anew"),
        (lambda run: (run / "env.json").unlink(), "put them back"),
    ],
)
def test_what_to_do_is_said(run: RunFolder, damage: Callable[[Path], object], advice: str):
    damage(run.path)
    done = call(doctor)
    assert advice in done.stdout
    assert done.exit_code == 1


def test_what_a_kill_left_behind_does_no_harm_and_is_named(run: RunFolder):
    folder = run.stage_folder(1, "a")
    Done({}, seal_files(folder, ["model"])).write(folder, TRAINED_FILE)
    run.drop_model(folder)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("a")
    (run.path / ".matrix.json.17.tmp").write_text("")
    left = ("unknown", "left behind by a kill; --resume removes it")
    assert examined() == (
        0,
        {".matrix.json.17.tmp": left, f"{FIRST}/model/weights": left, f"{FIRST}/trained.json": ("unknown", "")},
    )


def test_no_run():
    shutil.rmtree("runs")
    assert str(call(doctor).exception) == "no run in runs/: start one with `clkit train`, or name a run folder"
    assert str(call(doctor, "runs").exception) == "runs: no such run folder"
    Path("mine").mkdir()
    assert str(call(doctor, "mine").exception) == "mine is no run folder: nothing of a run is in it"


def test_a_run_of_a_newer_clkit(run: RunFolder):
    write_json(run.env_path, {"format": 2})
    error = call(doctor).exception
    assert isinstance(error, RunError)
    assert "made by a newer clkit" in str(error)
