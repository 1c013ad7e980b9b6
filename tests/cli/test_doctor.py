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
from clkit.run.folder import ZERO_SHOT, RunFolder
from clkit.run.lock import locked
from tests.cli.verbs import call


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run of two tasks; tables have room, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return make_run(Path("runs/x-1"))


def make_run(path: Path, learned: int = 2) -> RunFolder:
    run = RunFolder.create(path, "name: x\nseed: 1\n", {"versions": {"clkit": "0.1.0"}})
    matrix = AccuracyMatrix(tasks=["a", "b"], counts=[4, 4], zero_shot=[0.0, 0.25])
    rows = {ZERO_SHOT: [0.0, 0.25], "a": [1.0, None], "b": [0.5, 0.75]}
    for index, (name, row) in enumerate(list(rows.items())[: learned + 1]):
        folder = run.start_stage(index, name)
        (folder / "predictions.jsonl").write_text("{}\n" * index)
        if index:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text(name * 10)
            matrix.add_row(row)
        run.log.append({"event": "evaluated", "stage": name})
        run.finish_stage(index, name, {"row": row, "matrix": matrix.header()})
        run.write_matrix(matrix)
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
        (lambda run: (run / "log.jsonl").write_bytes(b'{}\n{"a": \n'), {"log.jsonl": "changed"}),
        (lambda run: (run / "env.json").unlink(), {"env.json": "missing", "recipe.yaml": "unchecked"}),
        (lambda run: (run / "env.json").write_text("{"), {"env.json": "changed", "recipe.yaml": "unchecked"}),
        (
            lambda run: (run / "env.json").write_text('{"format": "two"}'),
            {"env.json": "changed", "recipe.yaml": "unchecked"},
        ),
        (
            lambda run: shutil.copytree(run / FIRST, run / "tasks/01-c"),
            {"matrix.json": "changed", FIRST: "changed", "tasks/01-c": "changed"},
        ),
    ],
)
def test_each_kind_of_damage_is_named(run: RunFolder, damage: Callable[[Path], object], found: dict[str, str]):
    damage(run.path)
    code, problems = examined("runs/x-1")
    assert {path: state for path, (state, _) in problems.items()} == found
    assert code == 1


def test_a_wrong_score_in_the_matrix_is_told(run: RunFolder):
    data = json.loads(run.matrix_path.read_text())
    data["rows"][1][0] = 0.75
    write_json(run.matrix_path, data)
    code, problems = examined()
    assert problems["matrix.json"] == ("changed", "it does not hold the scores of the stages")
    assert code == 1


def test_an_interrupted_stage():
    run = make_run(Path("runs/y-1"), learned=1)
    folder = run.start_stage(2, "b")
    for checkpoint in ("step-10", "step-20"):
        (folder / "checkpoints" / checkpoint).mkdir(parents=True)
    assert examined("runs/y-1") == (
        1,
        {
            "matrix.json": ("unfinished", "run in progress: 1 of 2 tasks learned"),
            "tasks/02-b": ("unfinished", "2 checkpoints"),
        },
    )
    assert "clkit train runs/y-1/recipe.yaml --run runs/y-1 --resume` goes on" in call(doctor, "runs/y-1").stdout


def test_nothing_evaluated_yet():
    RunFolder.create("runs/y-1", "name: y\n", {})
    assert examined("runs/y-1") == (1, {"matrix.json": ("unfinished", "nothing was evaluated so far")})


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
    run.drop_model(1, "a")
    assert examined() == (0, {})
    assert "1 file, 3 bytes, the model not kept (saving.models: last)" in call(doctor).stdout


def test_a_run_of_an_older_clkit(run: RunFolder):
    for stage in run.stages():
        row = stage.payload["row"]
        write_json(stage.folder / "done.json", {"row": row})
    write_json(run.env_path, {"format": 1})
    old = ("unchecked", "no manifest (made by an older clkit)")
    places = ("recipe.yaml", "tasks/00-zero-shot", FIRST, "tasks/02-b")
    assert examined() == (1, dict.fromkeys(places, old))
    assert "nothing is damaged as far as it can be told" in call(doctor).stdout


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (
            lambda run: flip(run / FIRST / "model/weights"),
            "or remove runs/x-1/tasks/01-a and the stages after it: then",
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


def test_no_run():
    shutil.rmtree("runs")
    assert str(call(doctor).exception) == "no run in runs/: start one with `clkit train`, or name a run folder"
    assert str(call(doctor, "runs").exception) == "runs: no such run folder"
    Path("mine").mkdir()
    assert str(call(doctor, "mine").exception) == "mine is no run folder: nothing of a run is in it"


def test_a_run_of_a_newer_clkit(run: RunFolder):
    write_json(run.env_path, {"format": 3})
    error = call(doctor).exception
    assert isinstance(error, RunError)
    assert "made by a newer clkit" in str(error)
