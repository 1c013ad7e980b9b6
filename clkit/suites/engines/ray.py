"""Runs by Ray Core (`pip install 'clkit[ray]'`): on this machine, or on a cluster whose machines share the folders.

A run whose worker dies, with its machine or without, is begun again elsewhere and goes on from its last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from clkit.errors import ClkitError, UsageError, first_line
from clkit.suites.engine import Ended, EngineOptions, RemoteEngine, cores, ended, needed
from clkit.suites.job import Job, limited

#: Seconds that runs have to save what they did when the sweep is stopped.
GRACE = 60


class RayOptions(EngineOptions):
    """Of Ray."""

    address: str | None = Field(
        None, description="A cluster: `auto`, or `ray://HOST:PORT`; null: this machine, for as long as the sweep lasts."
    )
    cpus: int = Field(1, ge=1, description="Cores of each run, and its threads.")
    gpus: float | None = Field(
        None, ge=0, description="GPUs of each run, 0.25 for four on one; null: one, where there are any, or else none."
    )
    max_retries: int = Field(3, ge=-1, description="How often a run is begun again whose worker died; -1: always.")


class Ray(RemoteEngine):
    """Ray Core."""

    Options = RayOptions

    def side_by_side(self, jobs: int) -> int:
        room = jobs if self.options.address else max(1, cores() // self.options.cpus)
        return min(jobs, self.jobs or room)

    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to others
        ray, options = needed("ray", "ray"), self.options
        own = {} if options.address else {"num_cpus": cores(), "include_dashboard": False}
        try:
            ray.init(options.address, logging_level="ERROR", log_to_driver=False, **own)
        except (OSError, RuntimeError, ValueError) as error:
            hint = "; does it run, and is RAY_AUTH_MODE as there?" if options.address else ""
            raise ClkitError(f"Ray cannot be started or reached: {first_line(error)}{hint}") from error
        try:
            there = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
            gpus = min(1, there["GPU"]) if options.gpus is None else options.gpus
            if options.cpus > there["CPU"] or gpus > there["GPU"]:
                asked = f"a run asks for {options.cpus} cores and {gpus:g} GPUs (--with cpus, gpus), and there are"
                if not options.address:
                    raise UsageError(f"{asked} {there['CPU']:g} and {there['GPU']:g} on this machine")
                self.note(f"{asked} {there['CPU']:g} and {there['GPU']:g}: the runs wait until the cluster has more")
            resources = {"num_cpus": options.cpus, "num_gpus": gpus, "max_retries": options.max_retries}
            self._ray, self._remote = ray, ray.remote(**resources)(_carry_out)
            yield from super().carry_out(jobs)
        finally:
            ray.shutdown()

    def submit(self, job: Job) -> Any:
        return self._remote.remote(job, limited(self.options.cpus))

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        ended, _ = self._ray.wait(list(handles), num_returns=1)
        return list(ended)

    def outcome(self, handle: Any, job: Job) -> Ended:
        try:
            return ended(job, self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            return Ended(job, f"Ray lost it too often ({type(error).__name__}); max_retries allows more")

    def cancel(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self._ray.cancel(handle)
        if handles:
            self._ray.wait(list(handles), num_returns=len(handles), timeout=GRACE)


def _carry_out(job: Job, environment: dict[str, str]) -> int:
    return job.carry_out(environment)
