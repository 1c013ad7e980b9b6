"""`clkit report`: what it reads, what it writes and where, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.cli.report import report
from clkit.errors import ClkitError
from clkit.run.folder import RunFolder
from tests.cli.verbs import call
from tests.report.page.synthetic import make_run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*arguments: str) -> str:
    error = call(report, *arguments).exception
    assert isinstance(error, ClkitError)
    assert error.exit_code == 2
    return str(error)


def test_the_newest_run_without_a_name(folder: Path):
    make_run(Path("runs/only"))
    result = call(report)
    assert result.stderr.startswith("wrote report.html (")
    assert result.stdout == ""
    assert "<title>only · clkit report</title>" in Path("report.html").read_text("utf-8")


def test_a_folder_of_runs_and_another_place():
    for name in ("one", "two"):
        make_run(Path("runs", name))
    call(report, "runs", "--out", "page.html")
    assert "<title>Two runs side by side · clkit report</title>" in Path("page.html").read_text("utf-8")


def test_a_file_that_exists_stays_until_it_is_forced():
    make_run(Path("runs/only"))
    Path("report.html").write_text("mine")
    assert refusal() == "--out: 'report.html' exists; --force replaces it"
    assert Path("report.html").read_text() == "mine"
    call(report, "--force")
    assert Path("report.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "runs/only/page.html"], "lies in the run"),
        (["--out", "nowhere/page.html"], "there is no folder 'nowhere'"),
        (["--out", "runs"], "is a folder; name a file"),
        (["--metric", "macro_f2"], "no scores of metric 'macro_f2'"),
        (["--reference", "runs/only"], "is a run with protocol: sequential"),
    ],
)
def test_what_is_refused_writes_nothing(arguments: list[str], message: str):
    make_run(Path("runs/only"))
    assert message in refusal("runs/only", *arguments)
    assert not Path("report.html").exists()


def test_a_run_without_scores():
    RunFolder.create("runs/empty", "name: x\n", {})
    assert refusal("runs/empty") == "runs/empty: nothing was evaluated so far"


def test_damage_is_told():
    run = make_run(Path("runs/only"))
    (run.path / "tasks/02-green/done.json").write_text("{")
    result = call(report)
    assert "warning: " in result.stderr
    assert "02-green" in result.stderr
