"""The lock of a run folder: one writer, nobody locked out by the dead, nothing taken from another machine."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clkit.errors import RunError
from clkit.run.lock import LOCK_FILE, Holder, locked

HOLD = (
    "import sys; from pathlib import Path; from clkit.run.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def leave(folder: Path, **changes: object) -> Holder:
    """The lock file of a process that is gone, with changes to who it was."""
    holder = replace(Holder.this_process(), **{"pid": 4711, **changes})
    folder.mkdir(exist_ok=True)
    (folder / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    return holder


def test_it_is_there_while_held_and_gone_after(tmp_path: Path):
    with locked(tmp_path) as remark:
        assert remark is None
        holder = Holder.of(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_is_given_back_after_an_error(tmp_path: Path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_it_go_if_nothing_was_written(tmp_path: Path):
    with locked(tmp_path / "runs" / "a"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "env.json").write_text("")
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["env.json"]


def test_a_second_process_is_told_who_holds_it(tmp_path: Path):
    with holding(tmp_path) as other:
        with pytest.raises(RunError) as refused, locked(tmp_path):
            pass
        holder = Holder.of(tmp_path)
        assert holder is not None
        assert holder.pid == other.pid
        assert str(refused.value) == (
            f"{tmp_path} is being written by process {other.pid} on {holder.host} since {holder.since}: "
            "wait until it ends, stop it, or train into another folder with --run DIR"
        )
        assert other.communicate("")[0] == ""
    with locked(tmp_path) as remark:
        assert remark is None


def test_the_same_process_is_kept_out_too(tmp_path: Path):
    with locked(tmp_path):
        with pytest.raises(RunError, match=f"is being written by process {os.getpid()} "), locked(tmp_path):
            pass
        assert Holder.of(tmp_path) is not None


def test_a_killed_process_keeps_no_lock(tmp_path: Path):
    with holding(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        dead = Holder.of(tmp_path)
        with locked(tmp_path) as remark:
            assert remark == f"{tmp_path}: took over the lock of {dead}, which ended without giving it back"
            now = Holder.of(tmp_path)
            assert now is not None
            assert now.pid == os.getpid()
            with pytest.raises(RunError, match=f"is being written by process {os.getpid()} "), locked(tmp_path):
                pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_living_process_with_the_dead_ones_number_changes_nothing(tmp_path: Path):
    leave(tmp_path, pid=os.getppid())
    with locked(tmp_path) as remark:
        assert remark is not None


@pytest.mark.parametrize(
    ("changes", "checkable"),
    [
        ({"boot": "earlier"}, True),  # the machine was restarted
        ({"host": "container"}, True),  # two containers on one kernel
        ({"boot": "earlier", "host": "node7"}, False),
        ({"boot": None, "host": "node7"}, False),
    ],
)
def test_only_a_lock_that_can_be_checked_is_taken_over(tmp_path: Path, changes: dict[str, str | None], checkable: bool):
    holder = leave(tmp_path, **changes)
    before = (tmp_path / LOCK_FILE).read_bytes()
    if checkable:
        with locked(tmp_path) as remark:
            assert remark is not None
        return
    with pytest.raises(RunError) as refused, locked(tmp_path):
        pass
    here = Holder.this_process().host
    assert str(refused.value) == (
        f"{tmp_path} is locked by process 4711 on {holder.host} since {holder.since}, and whether that still runs "
        f"cannot be seen from {here}: if it does not, remove {tmp_path / LOCK_FILE}"
    )
    assert (tmp_path / LOCK_FILE).read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_file_that_says_nothing_is_left_alone(tmp_path: Path, content: str):
    (tmp_path / LOCK_FILE).write_text(content)
    message = r"lock\.json does not say which process holds it: .*, remove that file"
    with pytest.raises(RunError, match=message), locked(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_text() == content


def test_a_file_system_without_locks_has_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path):
        with pytest.raises(RunError, match="is being written by"), locked(tmp_path):
            pass
        assert Holder.of(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    message = r"\.lock cannot be written \(Not a directory\), .*, or choose another with --run DIR"
    with pytest.raises(RunError, match=message), locked(tmp_path / "file" / "run"):
        pass


RACE = (
    "import sys, time; from pathlib import Path; from clkit.errors import RunError; from clkit.run.lock import locked\n"
    "folder, log = Path(sys.argv[1]), sys.argv[2]\n"
    "while not Path(sys.argv[3]).exists(): pass\n"
    "for _ in range(150):\n"
    "    try:\n"
    "        with locked(folder):\n"
    "            with open(log, 'a') as file:\n"
    "                file.write('in\\n'); file.flush(); time.sleep(0.0005); file.write('out\\n')\n"
    "    except RunError as error:\n"
    "        assert 'is being written' in str(error) or 'does not say' in str(error), error\n"
)


def test_of_many_that_hurry_one_at_a_time_gets_in(tmp_path: Path):
    run, log, go = tmp_path / "run", tmp_path / "log", tmp_path / "go"
    run.mkdir()
    leave(run)  # the first of them takes a dead process's lock over
    racers = [subprocess.Popen([sys.executable, "-c", RACE, str(run), str(log), str(go)]) for _ in range(3)]
    go.write_text("")
    assert [racer.wait(120) for racer in racers] == [0, 0, 0]
    lines = log.read_text().split()
    assert lines == ["in", "out"] * (len(lines) // 2)
    assert len(lines) > 2  # more than one got in
    assert list(run.iterdir()) == []


def test_whether_a_holder_is_gone() -> None:
    this = Holder.this_process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not this.is_gone()
    assert replace(this, pid=ended.pid).is_gone()
    assert not replace(this, pid=ended.pid, host="elsewhere", boot="another").is_gone()
