"""`clkit matrix`: tables, JSON, CSV, and errors of one line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from clkit.cli.matrix import matrix
from clkit.errors import RunError, UsageError
from clkit.matrix import AccuracyMatrix
from clkit.runs import RunFolder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def call(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(matrix)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_run(seed: int, *, name: str = "x", final: float = 0.5, learned: int = 2) -> str:
    run = RunFolder.create(f"runs/{name}-{seed}", f"name: {name}\nseed: {seed}\n", {})
    rows = [[1.0, None], [final, 0.75]][:learned]
    run.write_matrix(AccuracyMatrix(tasks=["a", "b"], counts=[4, 4], zero_shot=[0.0, 0.25], rows=rows))
    return f"runs/{name}-{seed}"


def test_one_run_shows_matrix_and_metrics():
    output = call(make_run(1)).output
    assert "runs/x-1" in output
    assert "after b     50.0  75.0" in output
    assert "bwt                       -50.0  mean_{j<T} (R[T][j] - R[j][j])" in output


def test_without_a_run_the_newest_is_shown():
    make_run(1)
    assert call().output.startswith("runs/x-1")


def test_no_run_at_all():
    with pytest.raises(RunError, match="start one with `clkit train`"):
        call()


def test_run_in_progress_says_so():
    output = call(make_run(1, learned=1)).output
    assert "100.0" in output
    assert "runs/x-1: run in progress: 1 of 2 tasks learned; the metrics come with the last task" in output
    assert "bwt" not in output


def test_several_runs_get_a_row_each_and_the_seeds_a_mean():
    output = call(make_run(1, final=0.5), make_run(2, final=0.75), make_run(1, name="other")).output
    assert output.count("mean of 2 seeds") == 1
    assert "95 % interval" in output
    assert "runs/other-1" in output
    assert "after a" not in output


def test_one_seed_has_no_interval():
    output = call(make_run(1), make_run(1, name="other")).output
    assert "mean of" not in output
    assert "interval" not in output


def test_all_shows_each_matrix():
    assert call(make_run(1), make_run(2), "--all").output.count("after a") == 2


def test_json():
    data = json.loads(call(make_run(1, final=0.5), make_run(2, final=0.75), "--json").output)
    assert [run["run"] for run in data["runs"]] == ["runs/x-1", "runs/x-2"]
    first = data["runs"][0]
    assert first["in_progress"] is False
    assert AccuracyMatrix.from_json(first["matrix"]).rows == [[1.0, None], [0.5, 0.75]]
    assert first["metrics"]["bwt"]["value"] == -0.5
    assert first["metrics"]["fwt"]["value"] is None
    (group,) = data["aggregates"]
    assert group["runs"] == ["runs/x-1", "runs/x-2"]
    assert group["metrics"]["bwt"]["mean"] == pytest.approx(-0.375)
    assert group["metrics"]["bwt"]["n"] == 2


def test_json_of_one_run_has_the_same_shape():
    data = json.loads(call(make_run(1), "--json").output)
    assert len(data["runs"]) == 1
    assert data["aggregates"] == []


def test_csv_leaves_what_was_not_measured_empty():
    lines = list(csv.reader(call(make_run(1), "--csv").output.splitlines()))
    assert lines == [
        ["run", "stage", "task", "score"],
        ["runs/x-1", "0", "a", "0.0"],
        ["runs/x-1", "0", "b", "0.25"],
        ["runs/x-1", "1", "a", "1.0"],
        ["runs/x-1", "1", "b", ""],
        ["runs/x-1", "2", "a", "0.5"],
        ["runs/x-1", "2", "b", "0.75"],
    ]


@pytest.mark.parametrize("flags", [("--json", "--csv"), ("--all", "--json"), ("--all", "--csv")])
def test_flags_that_exclude_each_other(flags: tuple[str, ...]):
    with pytest.raises(UsageError, match="--json and --csv"):
        call(make_run(1), *flags)


def test_damaged_matrix_is_one_line():
    run = make_run(1)
    Path(run, "matrix.json").write_text('{"tasks": ["a"]')
    with pytest.raises(RunError, match=r"runs/x-1/matrix\.json cannot be read") as refused:
        call(run)
    assert "\n" not in str(refused.value)


def test_equal_recipes_with_other_tasks_are_not_averaged():
    first, second = make_run(1), make_run(2)
    RunFolder.open(second).write_matrix(AccuracyMatrix(tasks=["c"], counts=[1], rows=[[1.0]]))
    with pytest.raises(RunError, match="only runs over the same tasks"):
        call(first, second)


def test_nothing_heavy_is_imported(folder: Path):
    """In a fresh process; the control proves that the probe sees an import where there is one.

    pydantic is not among them: Typer imports it itself as soon as it parses arguments.
    """
    probe = (
        "import sys, typer; from clkit.cli.matrix import matrix; {extra}; app = typer.Typer(); app.command()(matrix); "
        "app(sys.argv[1:], standalone_mode=False); heavy = {{'torch', 'numpy', 'datasets', 'transformers'}}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    runs = [make_run(1), make_run(2)]
    for extra, found in (("pass", "[]"), ("import numpy", "['numpy']")):
        done = subprocess.run(
            [sys.executable, "-c", probe.format(extra=extra), *runs], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == found
        assert "mean of 2 seeds" in done.stdout
