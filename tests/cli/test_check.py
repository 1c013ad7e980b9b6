"""`clkit check`: rules pass, fail with exit code 3, and are never passed by what was not measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clkit.cli.check import check
from clkit.errors import UsageError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from tests.cli.verbs import call

ROWS = ([0.9, None], [0.8, 0.7])


def make_run(
    path: Path, *, seed: int = 1, rows: Sequence[list[float | None]] = ROWS, general: Sequence[float] = (), **more: Any
) -> str:
    run = RunFolder.create(path, f"name: x\nseed: {seed}\n", {})
    matrix = AccuracyMatrix(tasks=["a", "b"], counts=[1000, 1000], **more)
    stages = dict(enumerate(rows, 1)) if not general else {0: [None, None], **dict(enumerate(rows, 1))}
    for index, row in stages.items():
        name = "ab"[index - 1] if index else "zero-shot"
        run.start_stage(index, name)
        payload = {"row": row, "matrix": matrix.header()}
        if general:
            payload["general"] = {"held_out_loss": general[index]}
        run.finish_stage(index, name, payload)
    return str(path)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return make_run(tmp_path / "run")


def lines(*arguments: str) -> tuple[int, list[str]]:
    done = call(check, *arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines()


def test_a_line_for_each_rule_and_exit_code_3_where_one_is_broken(run: str) -> None:
    assert lines(run, "--max-forgetting", "15", "--min-average", "70") == (
        0,
        [
            "pass  forgetting 10.0, at most 15.0, by chance ±2.6",
            "pass  average_accuracy 75.0, at least 70.0, by chance ±1.6",
        ],
    )
    code, (kept, broken) = lines(run, "--max-forgetting", "15", "--min-average", "77")
    assert code == 3
    assert kept.startswith("pass  forgetting")
    assert broken.startswith("FAIL  average_accuracy 75.0, at least 77.0")


def test_strict_leaves_no_room_for_chance(run: str) -> None:
    assert lines(run, "--max-forgetting", "9")[0] == 0
    assert lines(run, "--max-forgetting", "9", "--strict") == (3, ["FAIL  forgetting 10.0, at most 9.0"])


def test_the_held_out_loss_may_rise_so_far(tmp_path: Path) -> None:
    measured = make_run(tmp_path / "general", general=[3.0, 3.1, 3.25])
    assert lines(measured, "--max-general-loss", "0.3") == (
        0,
        [f"pass  general_loss of {measured} 0.250, at most 0.300"],
    )
    assert lines(measured, "--max-general-loss", "0.2")[0] == 3


def test_what_was_not_measured_fails(run: str, tmp_path: Path) -> None:
    code, (line,) = lines(run, "--max-general-loss", "0.2")
    assert (code, line[:4]) == (3, "FAIL")
    assert "not measured" in line
    unfinished = make_run(tmp_path / "half", rows=ROWS[:1])
    code, (line,) = lines(unfinished, "--min-average", "10")
    assert (code, line[:4]) == (3, "FAIL")
    assert "run in progress: 1 of 2 tasks learned" in line


def test_against_another_run(run: str, tmp_path: Path) -> None:
    better = make_run(tmp_path / "better", rows=([0.9, None], [0.9, 0.8]))
    assert lines(better, "--against", run)[0] == 0
    code, found = lines(run, "--against", better)
    assert code == 3
    assert [line[:4] for line in found] == ["FAIL", "FAIL"]
    other = RunFolder.create(tmp_path / "other", "name: y\nseed: 1\n", {})
    matrix = AccuracyMatrix(tasks=["c"], counts=[5])
    other.start_stage(1, "c")
    other.finish_stage(1, "c", {"row": [0.5], "matrix": matrix.header()})
    assert "other tasks" in str(call(check, run, "--against", str(other.path)).exception)


def test_seeds_are_judged_together(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(s), seed=s, rows=([0.9, None], [0.8 + s / 100, 0.7])) for s in (0, 1, 2)]
    (ruling,) = json.loads(call(check, *runs, "--max-forgetting", "5", "--json").stdout)
    assert ruling["value"] == pytest.approx(0.09)
    assert ruling["noise"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    assert ruling["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "no rule is given"), (("--max-forgetting", "nan"), "--max-forgetting: needs a number")],
)
def test_rules_that_say_nothing(run: str, arguments: tuple[str, ...], message: str) -> None:
    failed = call(check, run, *arguments).exception
    assert isinstance(failed, UsageError)
    assert message in str(failed)


def test_runs_that_were_tested_on_other_data(run: str, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=2)
    for path, version in ((run, "1"), (other, "2")):
        RunFolder(Path(path)).note_in_environment(read={"tasks.a.test": f"4 examples, {version}"})
    error = call(check, run, "--against", other).exception
    assert isinstance(error, UsageError)
    assert f"--against {other}: was tested on other data than {run} (tasks.a.test); name a run" in str(error)
    error = call(check, run, other, "--max-forgetting", "20").exception
    assert isinstance(error, UsageError)
    assert "are no repetitions: what they read was changed in between (tasks.a.test); leave one out" in str(error)
    for path, version in ((run, "1"), (other, "2")):
        RunFolder(Path(path)).note_in_environment(read={"tasks.a.test": "4 examples", "model.config.json": version})
    assert call(check, run, "--against", other).exit_code in (0, 3)  # another model is what one asks about


def test_runs_that_are_no_repetitions(run: str, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", "name: z\nseed: 2\n", {})
    assert "differ in name" in str(call(check, run, str(other.path), "--min-average", "1").exception)
