"""Jobs whose process takes long enough to be killed, without a model."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clkit.suites.job import Job

#: A strategy whose first import takes forever, and whose second does not.
STRATEGY = """\
import os, pathlib, time
import clkit
first = pathlib.Path("processes")
if not first.exists():
    first.write_text(f"{os.getpid()} {os.getppid()}\\n")
    time.sleep(60)

class Slow(clkit.Strategy):
    name = "slow"
"""


def slow_job(folder: Path) -> Job:
    """A job that loads the strategy."""
    (folder / "slow.py").write_text(STRATEGY, "utf-8")
    (folder / "slow.yaml").write_text('extends: quickstart\nstrategies: [{name: "slow:Slow"}]\n', "utf-8")
    return Job(folder / "runs" / "slow", ("validate", "slow.yaml"), folder / "runs", folder)


def started(folder: Path) -> tuple[int, int]:
    """The process that imports the strategy, and the one that started it; waits until they are there."""
    file = folder / "processes"
    for _ in range(600):
        if file.exists() and (text := file.read_text()).endswith("\n"):
            own, parent = text.split()
            return int(own), int(parent)
        time.sleep(0.1)
    raise AssertionError("it did not start")


def gone(process: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
