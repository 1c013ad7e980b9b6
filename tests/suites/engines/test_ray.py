"""Runs by Ray, where it is installed: how they end, and that one whose worker is killed is begun again."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from clkit.errors import RecipeError, UsageError
from clkit.suites.engine import Ended, make_engine
from clkit.suites.job import Job
from tests.suites.engines.slow import gone, slow_job, started

pytest.importorskip("ray")


def test_runs_end_well_or_badly_and_outlive_their_workers(tmp_path: Path) -> None:
    slow = slow_job(tmp_path)
    jobs = [
        slow,
        Job(tmp_path / "runs" / "good", ("--version",), tmp_path / "runs", tmp_path),
        Job(tmp_path / "runs" / "bad", ("trian", "quickstart"), tmp_path / "runs", tmp_path),
    ]
    killed = []

    def kill_worker() -> None:
        own, worker = started(tmp_path)
        os.kill(worker, signal.SIGKILL)
        killed.append(gone(own))

    killer = threading.Thread(target=kill_worker)
    killer.start()
    ends = {end.job: end for end in make_engine("ray", 2, ["max_retries=1"]).carry_out(jobs)}
    killer.join()
    assert killed == [True]
    assert ends[slow] == Ended(slow)
    assert slow.log.read_text().count("$ clkit validate slow.yaml\n") == 2
    assert ends[jobs[1]] == Ended(jobs[1])
    assert "No such command 'trian'" in str(ends[jobs[2]].failure)


def test_an_early_end_stops_all_runs(tmp_path: Path) -> None:
    ends = make_engine("ray", 2, []).carry_out(
        [Job(tmp_path / "runs" / "good", ("--version",), tmp_path / "runs", tmp_path), slow_job(tmp_path)]
    )
    next(ends)
    own, _ = started(tmp_path)
    ends.close()  # type: ignore[attr-defined]
    assert gone(own)


def test_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"command line: gpus: -1 is out of range"):
        make_engine("ray", None, ["gpus=-1"])
    job = Job(tmp_path / "runs" / "good", ("--version",), tmp_path / "runs", tmp_path)
    with pytest.raises(UsageError, match=r"a run asks for 1000 cores and 0 GPUs \(--with cpus, gpus\), and there are"):
        list(make_engine("ray", None, ["cpus=1000"]).carry_out([job]))
