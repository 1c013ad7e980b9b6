"""One run of a sweep in a process of its own: what becomes of it when whoever waits for it is interrupted."""

from __future__ import annotations

import _thread
import signal
import subprocess
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from clkit.suites import job
from tests.suites.engines.slow import gone, slow_job, started


def test_an_interruption_without_a_signal_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray cancels: Python is told, and no call of the system ends for it."""
    at_work: list[bool] = []
    stop = job.stop

    def watched(processes: Collection[subprocess.Popen[bytes]]) -> None:
        at_work.extend(process.poll() is None for process in processes)
        stop(processes)

    monkeypatch.setattr(job, "stop", watched)
    interruption = threading.Thread(target=lambda: (started(tmp_path), _thread.interrupt_main()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it is ignored
    try:
        interruption.start()
        with pytest.raises(KeyboardInterrupt):
            slow_job(tmp_path).carry_out({})
    finally:
        signal.signal(signal.SIGINT, before)
    interruption.join()
    assert at_work == [True]
    assert gone(started(tmp_path)[0])
