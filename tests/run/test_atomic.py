"""Files that are written whole or not at all; and the log, which a crash may cut short."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clkit.run.atomic import RunLog, replacing, write_atomically, write_json


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "matrix.json"
    write_atomically(path, "old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_asked_for_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("old", "utf-8")

    def fill_the_disk() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half", "utf-8")
            raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    with pytest.raises(OSError, match="No space") as caught:
        fill_the_disk()
    assert caught.value.filename == str(path)
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{path}'"
    assert [(one.name, one.read_text("utf-8")) for one in tmp_path.iterdir()] == [("rows.parquet", "old")]


def test_bytes_and_text(tmp_path: Path):
    write_atomically(tmp_path / "a", b"\x00\xff")
    write_atomically(tmp_path / "b", "ü\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "ü\n".encode()


def test_file_is_as_readable_as_any_other(tmp_path: Path):
    """A temporary file's own mode, 0600, would shut a group out of its run."""
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_stable_and_strict(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": "ü", "a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": "ü",\n  "a": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert "ü" in (tmp_path / "a.json").read_text()


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
