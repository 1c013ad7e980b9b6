"""One run of a sweep as an engine carries it out: `clkit train` in a process of its own, with its output in a file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clkit.run.place import is_empty

#: What linear algebra, and with it torch, takes its number of threads from.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def limited(threads: int) -> dict[str, str]:
    """Environment variables for so many threads; what the user has set stays."""
    return {name: os.environ.get(name, str(threads)) for name in THREADS}


@dataclass(frozen=True)
class Job:
    """A run that is to be begun or gone on with.

    Attributes:
        arguments: of `clkit`.
        suite: the folder of all runs.
        working: the folder that relative paths in them start from.
    """

    run: Path
    arguments: tuple[str, ...]
    suite: Path
    working: Path

    @property
    def log(self) -> Path:
        """What the run prints, beside its folder: the folder itself holds nothing but the run."""
        return self.run.with_name(f"{self.run.name}.log")

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Begin the run, or go on with it where it was begun.

        Its process does not hear the Ctrl-C that the terminal sends to all: whoever started it passes that on.
        """
        arguments = [*self.arguments, *([] if is_empty(self.run) else ["--resume"])]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(['clkit', *arguments])}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "clkit.suites.child", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.working,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def carry_out(self, environment: Mapping[str, str]) -> int:
        """Begin the run or go on with it, and wait for its end: its exit code. Interrupted, it stops the run."""
        process = self.start(environment)
        try:
            return wait(process)
        finally:
            stop([process])

    def last_words(self) -> str:
        """The last line that the run printed."""
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a run, when it has ended."""
    # Not one long wait: Ray interrupts without a signal, and Python raises that when the system's call is back.
    while (code := _waited(process)) is None:
        pass
    if process.stdin is not None:
        process.stdin.close()
    return code


def _waited(process: subprocess.Popen[bytes]) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=1)
    return None


def stop(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """Ask runs to save what they did and end, those that have not ended, and wait for it."""
    for process in processes:
        with suppress(ProcessLookupError):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
    for process in processes:
        wait(process)
