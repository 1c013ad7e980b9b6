"""Runs as jobs of Slurm, by submitit (`pip install 'clkit[slurm]'`), from a machine that shares the folders.

A job that Slurm preempts, or whose time is up, is put into the queue again and goes on from its last checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import Field

from clkit.suites.engine import Ended, EngineOptions, RemoteEngine, cores, ended, needed
from clkit.suites.job import Job, limited

#: Seconds between two looks at the queue.
INTERVAL = 1.0
#: How often a job may run out of time and be put into the queue again.
REQUEUED = 1000


class SlurmOptions(EngineOptions):
    """Of Slurm."""

    cluster: Literal["slurm", "local"] = Field("slurm", description="`local`: processes here, to try it without Slurm.")
    partition: str | None = Field(None, description="Where the jobs go; null: the cluster's own choice.")
    minutes: int = Field(24 * 60, ge=1, description="Longest time of a job; a longer run goes on in another.")
    cpus: int = Field(1, ge=1, description="Cores of each run, and its threads.")
    gpus: int = Field(0, ge=0, description="GPUs of each run.")
    memory: int | None = Field(None, ge=1, description="GB of memory of each run; null: the cluster's own choice.")


class Submitit(RemoteEngine):
    """Slurm, by submitit."""

    Options = SlurmOptions

    def side_by_side(self, jobs: int) -> int:
        return min(jobs, self.jobs or (jobs if self.options.cluster == "slurm" else cores()))

    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        options = self.options
        executor = needed("submitit", "slurm").AutoExecutor(
            jobs[0].suite / "slurm", cluster=options.cluster, slurm_max_num_timeout=REQUEUED
        )
        given = {
            "name": "clkit",
            "timeout_min": options.minutes,
            "cpus_per_task": options.cpus,
            "gpus_per_node": options.gpus,
            "mem_gb": options.memory,
            "slurm_partition": options.partition,
        }
        executor.update_parameters(**{key: value for key, value in given.items() if value is not None})
        self._executor = executor
        yield from super().carry_out(jobs)

    def submit(self, job: Job) -> Any:
        with _interruptible():
            return self._executor.submit(_Run(), job, limited(self.options.cpus))

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        time.sleep(INTERVAL)
        return [handle for handle in handles if handle.done()]

    def outcome(self, handle: Any, job: Job) -> Ended:
        error = handle.exception()
        if error is None:
            return ended(job, handle.result())
        return Ended(job, f"{type(error).__name__}, of which {handle.paths.stderr} says more")

    def cancel(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            handle.cancel()


@contextmanager
def _interruptible() -> Iterator[None]:
    """What is started hears SIGINT, by which submitit cancels local jobs, also where this process does not (nohup)."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Run:
    def __call__(self, job: Job, environment: dict[str, str]) -> int:
        return job.carry_out(environment)

    def checkpoint(self, job: Job, environment: dict[str, str]) -> Any:
        """What is put into the queue again when Slurm takes the machine away: the same, which goes on."""
        return needed("submitit", "slurm").helpers.DelayedSubmission(self, job, environment)
