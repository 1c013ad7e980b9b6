"""Runs that are watched: the log of a real run, as it grows, is cut short, replaced or damaged."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clkit.errors import RunError
from clkit.report.watching import Watch, Watched, watch_in, watch_lines, watch_view
from clkit.run.folder import RunFolder
from clkit.run.lock import LOCK_FILE, Holder
from tests.toy import Finished, ToyRecipe


@pytest.fixture
def run(toy: ToyRecipe, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of two tasks, `runs/toy`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished(toy(training={"epochs": 0.7}, data={"test_per_task": 4})).path, "runs/toy")
    return Path("runs/toy")


def names(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(event["event"], event.get("task") or event.get("stage")) for event in events]


WHOLE: list[tuple[str, Any]] = [("planned", None), ("evaluated", "zero-shot")]
for name in ("first", "second"):
    WHOLE += [("task_started", name), *[("step", name)] * 3, ("evaluated", name)]


def test_a_finished_run_is_told_from_its_beginning(run: Path) -> None:
    watched = Watched(run)
    events = watched.look()
    assert names(events) == WHOLE
    assert watched.look() == []
    assert watched.state == "finished"
    matrix, read = watched.course.matrix(), RunFolder(run).read_matrix()
    assert matrix is not None
    assert (matrix.zero_shot, matrix.rows) == (read.zero_shot, read.rows)
    assert watched.course.left() == 0
    assert events[1]["row"].keys() == {"first", "second"}


def test_what_is_written_meanwhile_is_told_once_and_whole(run: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"")
    watched = Watched(run)
    told = []
    for start in range(0, len(whole), 100):  # most cuts are within a line
        with log.open("ab") as file:
            file.write(whole[start : start + 100])
        told += watched.look()
    assert names(told) == WHOLE


def test_a_validation_loss_is_heard_also_where_it_is_not_finite(run: Path) -> None:
    watched = Watched(run)
    watched.look()
    for loss, best in ((0.5, 2), ("nan", 2)):  # as the log writes it
        line = {"event": "validated", "time": "2026-01-01T00:00:00+00:00", "task": "second", "step": 3}
        with (run / "log.jsonl").open("a") as file:
            file.write(json.dumps({**line, "validation_loss": loss, "best_step": best}) + "\n")
        watched.look()
        assert str(watched.course.validation) == f"({loss}, {best})"


def test_a_log_that_was_replaced_is_read_anew(run: Path) -> None:
    watched = Watched(run)
    watched.look()
    RunFolder(run).log.cut({"second": 1})
    events = watched.look()
    assert names(events) == [("reread", None), *WHOLE[:-5], ("step", "second")]
    assert (watched.course.stage, watched.course.step) == ("second", 1)
    assert watched.look() == []


def test_states(run: Path) -> None:
    holder = Holder.this_process()
    (run / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    assert Watched(run).state == "running"
    (run / LOCK_FILE).write_text(json.dumps(asdict(holder) | {"pid": 2**22 + 1}))  # beyond the highest of Linux
    assert Watched(run).state == "finished"
    (run / "log.jsonl").unlink()
    assert Watched(run).state == "finished"
    shutil.rmtree(run / "tasks/02-second")
    watched = Watched(run)
    watched.look()
    assert watched.state == "stopped"


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "nothing", '{"event": "step"}', '{"event": "planned", "tasks": 3}', '{"event": "evaluated"}',
     '{"event": "evaluated", "stage": "first", "row": 7}', '{"event": "task_started", "time": "noon"}',
     '{"event": "planned", "of": "later"}', "[" * 3000],
)  # fmt: skip
def test_a_damaged_line_stops_nothing(run: Path, text: str) -> None:
    log = run / "log.jsonl"
    log.write_text(f"{text}\n{log.read_text()}")
    watched = Watched(run)
    events = watched.look()
    assert names(events)[-len(WHOLE) :] == WHOLE
    assert watched.course.is_finished


def test_lines_for_machines(run: Path) -> None:
    told: list[str] = []
    watch_lines(Watch([Path("runs")]), told.append)
    events = [json.loads(line) for line in told]
    assert {event.pop("run") for event in events} == {"runs/toy"}
    assert names(events) == [*WHOLE, ("finished", None)]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_person_sees(run: Path, terminal: bool) -> None:
    file = io.StringIO()
    watch_in(Console(file=file, width=80, force_terminal=terminal, color_system=None), Watch([run]))
    shown = file.getvalue()
    assert "after second" in shown
    assert "runs/toy: finished" in shown
    if not terminal:
        assert "runs/toy: first: 3 steps\n" in shown


def test_several_runs_have_a_row_each(run: Path) -> None:
    shutil.copytree(run, "runs/other")
    shutil.rmtree("runs/other/tasks/02-second")
    RunFolder(Path("runs/other")).log.cut({"second": 2})
    watch = Watch([Path("runs")])
    for _ in watch.look():
        pass
    console = Console(file=io.StringIO(), width=80)
    console.print(watch_view(watch, 80))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = [line.split()[:3] for line in lines if line.startswith("runs/")]
    assert rows == [["runs/other", "stopped", "2/3"], ["runs/toy", "finished", "3/3"]]
    assert lines[-1].strip() == "1 of 2 finished"
    assert max(map(len, lines)) <= 80


def test_where_nothing_is_to_be_watched(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run there, and none that is about to begin; start one with `clkit train`"):
        Watch([tmp_path])
