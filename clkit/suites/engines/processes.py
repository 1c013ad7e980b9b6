"""Runs side by side on this machine, each with its share of the cores, or of the GPUs where there are some."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from pydantic import Field

from clkit.suites.engine import Ended, Engine, EngineOptions, cores, ended
from clkit.suites.job import Job, limited, stop, wait


class PoolOptions(EngineOptions):
    """Of processes on this machine."""

    threads: int | None = Field(
        None, ge=1, description="Threads of each run; null: the cores, divided among the runs side by side."
    )


class Processes(Engine):
    """A pool of processes on this machine."""

    Options = PoolOptions

    def side_by_side(self, jobs: int) -> int:
        return min(self.jobs or len(_gpus()) or cores(), max(jobs, 1))

    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        gpus, side_by_side = _gpus(), self.side_by_side(len(jobs))
        environment = limited(self.options.threads or max(1, cores() // side_by_side))
        free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for place in range(side_by_side):
            free.put({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
        running: set[subprocess.Popen[bytes]] = set()
        starting = threading.Lock()
        stopped = threading.Event()

        def carry_out(job: Job) -> Ended:
            device = free.get()
            try:
                with starting:  # so that none is started behind the back of what stops them all
                    if stopped.is_set():
                        return Ended(job, "stopped before it began")
                    process = job.start({**environment, **device})
                    running.add(process)
                return ended(job, wait(process))
            except OSError as error:
                return Ended(job, f"{error.filename or job.run}: {error.strerror or error}")
            finally:
                free.put(device)

        with ThreadPoolExecutor(side_by_side) as pool:
            futures = [pool.submit(carry_out, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                with starting:
                    stopped.set()
                stop(running)


def _gpus() -> list[str]:
    """The NVIDIA GPUs that a run may use, as CUDA_VISIBLE_DEVICES names them; found without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip()]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
