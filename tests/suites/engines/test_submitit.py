"""Runs by submitit, where it is installed, with its executor for one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clkit.suites.engine import Ended, make_engine
from clkit.suites.job import Job
from tests.suites.engines.slow import gone, slow_job, started

submitit = pytest.importorskip("submitit")


def job(folder: Path, name: str, *arguments: str) -> Job:
    return Job(folder / "runs" / name, arguments, folder / "runs", folder)


def test_how_jobs_end(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "good", "--version"), job(tmp_path, "bad", "trian", "quickstart")]
    ends = {end.job: end for end in make_engine("submitit", 2, ["cluster=local"]).carry_out(jobs)}
    assert ends[jobs[0]] == Ended(jobs[0])
    assert "No such command 'trian'" in str(ends[jobs[1]].failure)


def test_an_early_end_stops_all_runs(tmp_path: Path) -> None:
    ends = make_engine("submitit", 2, ["cluster=local"]).carry_out(
        [job(tmp_path, "good", "--version"), slow_job(tmp_path)]
    )
    next(ends)
    own, _ = started(tmp_path)
    ends.close()  # type: ignore[attr-defined]
    assert gone(own)


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Slurm here: submitit writes its script, and `sbatch` is replaced."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    for name in ("srun", "squeue", "sacct", "scancel"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    engine: Any = make_engine("submitit", 2, ["gpus=1", "cpus=4", "memory=24", "minutes=90", "partition=short"])
    monkeypatch.setattr(engine, "wait", lambda handles: handles)
    monkeypatch.setattr(engine, "outcome", lambda handle, job: Ended(job))
    assert list(engine.carry_out([job(tmp_path, "one", "--version")])) == [Ended(job(tmp_path, "one", "--version"))]
    (script,) = (tmp_path / "runs" / "slurm").glob("7_*.sh")
    asked = script.read_text()
    for line in ("--gpus-per-node=1", "--cpus-per-task=4", "--mem=24GB", "--time=90", "--partition=short"):
        assert f"#SBATCH {line}\n" in asked


def test_a_run_that_is_preempted_is_put_into_the_queue_again(tmp_path: Path) -> None:
    from clkit.suites.engines.submitit import _Run

    again = _Run().checkpoint(job(tmp_path, "one", "--version"), {})
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.result() == 0
