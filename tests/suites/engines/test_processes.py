"""Runs in processes of their own: how they end, what they may use, and that none outlives the sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clkit.errors import RecipeError, UsageError
from clkit.suites.engine import Ended, Engine, make_engine
from clkit.suites.job import Job
from tests.suites.engines.slow import gone, slow_job, started


def pool(*options: str, jobs: int = 2) -> Engine:
    return make_engine("processes", jobs, options)


def job(folder: Path, name: str, *arguments: str) -> Job:
    return Job(folder / "runs" / name, arguments, folder / "runs", folder)


def test_how_jobs_end(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "good", "--version"), job(tmp_path, "bad", "trian", "quickstart")]
    ended = {end.job: end for end in pool().carry_out(jobs)}
    assert ended[jobs[0]] == Ended(jobs[0])
    assert "No such command 'trian'" in str(ended[jobs[1]].failure)
    assert jobs[0].log == tmp_path / "runs" / "good.log"
    assert jobs[0].log.read_text().startswith("$ clkit --version\nclkit ")


def test_a_run_that_was_begun_is_gone_on_with(tmp_path: Path) -> None:
    begun = job(tmp_path, "begun", "validate", "quickstart")
    begun.run.mkdir(parents=True)
    (begun.run / "recipe.yaml").touch()
    (end,) = pool().carry_out([begun])
    assert "No such option: --resume" in str(end.failure)


@pytest.mark.parametrize(("jobs", "options", "threads"), [(2, (), 2), (8, (), 1), (2, ("threads=3",), 3)])
def test_cores_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, options: tuple[str, ...], threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("clkit.suites.engines.processes.cores", lambda: 4)
    monkeypatch.setattr("clkit.suites.engines.processes._gpus", lambda: ["5", "7"])
    seen = []

    def start(self: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        seen.append((environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]))
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"], stdin=subprocess.PIPE)

    monkeypatch.setattr(Job, "start", start)
    several = [job(tmp_path, str(number)) for number in range(jobs)]
    assert len(list(pool(*options, jobs=jobs).carry_out(several))) == jobs
    assert {entry[0] for entry in seen} == {str(threads)}
    assert [sum(entry[1] == gpu for entry in seen) for gpu in ("5", "7")] == [jobs / 2] * 2


def test_an_early_end_stops_all_runs(tmp_path: Path) -> None:
    ends = pool().carry_out([job(tmp_path, "quick", "--version"), slow_job(tmp_path)])
    next(ends)
    own, _ = started(tmp_path)
    ends.close()  # type: ignore[attr-defined]
    assert gone(own)


def test_no_run_outlives_a_sweep_that_is_killed(tmp_path: Path) -> None:
    slow = slow_job(tmp_path)
    program = (
        "from pathlib import Path\nfrom clkit.suites.engine import make_engine\nfrom clkit.suites.job import Job\n"
        f"list(make_engine('processes', 1, []).carry_out([Job(Path({str(slow.run)!r}), {slow.arguments!r}, "
        f"Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))]))"
    )
    sweep = subprocess.Popen([sys.executable, "-c", program])
    own, parent = started(tmp_path)
    assert parent == sweep.pid
    sweep.kill()
    sweep.wait()
    assert gone(own)


def test_what_is_wrong_with_an_engine() -> None:
    with pytest.raises(UsageError, match="no engine 'process', did you mean 'processes'"):
        make_engine("process", None, [])
    with pytest.raises(RecipeError, match="command line: unknown key 'thread', did you mean 'threads'"):
        make_engine("processes", None, ["thread=2"])
