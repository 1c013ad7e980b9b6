"""The log: lines that survive a crash and a diverged loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.run.log import RunLog


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path / "log.jsonl")


def test_lines(log: RunLog) -> None:
    assert log.read() == []
    log.append({"step": 1, "loss": 0.5})
    log.append({"step": 2, "note": "ü\u2028"})
    assert log.read() == [{"step": 1, "loss": 0.5}, {"step": 2, "note": "ü\u2028"}]


def test_diverged_loss_stays_valid_json(log: RunLog) -> None:
    log.append({"loss": float("nan"), "norm": float("-inf")})
    assert log.read() == [{"loss": "nan", "norm": "-inf"}]


def test_line_cut_short_by_a_crash_spoils_no_other(log: RunLog) -> None:
    log.append({"step": 1})
    with log.path.open("ab") as file:
        file.write('{"note": "ü'.encode()[:-1])
    log.append({"step": 2})
    assert log.read() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["null", "7", '"step"', "[1]", "{", "nul", '{"step": 1'])
def test_a_line_that_is_no_object_is_named_and_goes_when_the_log_is_cut(log: RunLog, line: str) -> None:
    log.append({"task": "a", "step": 1})
    with log.path.open("a") as file:
        file.write(line + "\n")
    log.append({"task": "b", "step": 1})
    assert log.unreadable() == [2]
    assert log.read() == [{"task": "a", "step": 1}, {"task": "b", "step": 1}]
    log.cut({})
    assert log.unreadable() == []
    assert len(log.read()) == 2


def test_what_is_cut(log: RunLog) -> None:
    for line in ({"task": "a", "step": 2}, {"task": "b", "step": 1}, {"task": "b", "step": 2}, {"stage": "b"}):
        log.append(line)
    log.append({"task": "b", "step": "one"})
    log.append({"task": ["b"], "step": 1})
    log.cut({"b": 1})
    assert log.read() == [{"task": "a", "step": 2}, {"task": "b", "step": 1}, {"task": ["b"], "step": 1}]
