"""python benchmarks/sweep_engines.py [--engine ray] [--runs 60] [--kills 10] [--jobs 2]

A sweep of miniature runs whose workers are killed at random moments: is anything lost, and what does the engine cost?

Each run learns two tasks of the sample. A kill (SIGKILL) hits, at a random moment, the process that an engine started
a run from: Ray's worker, submitit's, or the run itself. At the end every run must be finished, with the scores of a
sweep left in peace. What the engine costs is the share of the time in which fewer runs go on than there is room for;
with kills that holds what is done twice too. Linux only: it looks into /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SUITE = """\
name: miniatures
recipe: quickstart
set:
  data: {train_per_task: 16, test_per_task: 8}
  training: {batch_size: 8, epochs: 1}
  evaluation.zero_shot: false
  saving: {models: last, checkpoint_steps: 2}
seeds: SEEDS
methods: {plain: {set: {strategies: []}}, migu: {}}
"""
INTERVAL = 0.1
CHILD = "clkit.suites.child"


def processes(mark: str) -> dict[int, int]:
    """Runs of a sweep that go on: their process numbers, and those of the processes that started them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                if CHILD in words and any(word.startswith(mark) for word in words):
                    found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    return found


class Watch(threading.Thread):
    """Counts the runs that go on, and kills what started them."""

    def __init__(self, sweep: subprocess.Popen[bytes], mark: str, moments: list[float]) -> None:
        super().__init__(daemon=True)
        self._sweep, self._mark, self._moments = sweep, mark, sorted(moments)
        self.busy = 0.0
        self.killed = 0

    def run(self) -> None:
        began = last = time.monotonic()
        while self._sweep.poll() is None:
            time.sleep(INTERVAL)
            going = processes(self._mark)
            now = time.monotonic()
            self.busy += len(going) * (now - last)
            last = now
            if self._moments and now - began >= self._moments[0] and going:
                own, parent = random.choice(list(going.items()))
                self._moments.pop(0)
                os.kill(own if parent == self._sweep.pid else parent, signal.SIGKILL)
                self.killed += 1


def sweep(folder: Path, options: list[str], jobs: int, moments: list[float]) -> tuple[float, float, int, bool]:
    """Seconds that a sweep took, their share in which runs went on, how many were killed, and whether it ended well."""
    command = [sys.executable, "-m", "clkit", "sweep", "miniatures.yaml", "--runs", str(folder), "--jobs", str(jobs)]
    began = time.monotonic()
    process = subprocess.Popen([*command, *options], cwd=folder.parent, stdout=subprocess.DEVNULL)
    watch = Watch(process, str(folder), moments)
    watch.start()
    well = process.wait() == 0
    watch.join()
    seconds = time.monotonic() - began
    return seconds, watch.busy / (jobs * seconds), watch.killed, well


def scores(folder: Path) -> dict[str, object]:
    """The matrix of each finished run."""
    return {
        str(file.relative_to(folder).parent): json.loads(file.read_text("utf-8"))["rows"]
        for file in sorted(folder.glob("*/*/matrix.json"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="ray")
    parser.add_argument("--with", dest="options", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    chosen = ["--engine", arguments.engine, *(word for option in arguments.options for word in ("--with", option))]
    with tempfile.TemporaryDirectory() as temporary:
        seeds = list(range(1, arguments.runs // 2 + 1))
        Path(temporary, "miniatures.yaml").write_text(SUITE.replace("SEEDS", str(seeds)), "utf-8")
        peace, killed = Path(temporary, "peace"), Path(temporary, "killed")
        seconds, busy, _, _ = sweep(peace, chosen, arguments.jobs, [])
        print(
            f"in peace: {len(scores(peace))} of {arguments.runs} runs in {seconds:.0f} s; overhead {1 - busy:.1%}",
            flush=True,
        )
        moments = [random.uniform(0.05, 0.95) * seconds for _ in range(arguments.kills)]
        _, busy, kills, well = sweep(killed, chosen, arguments.jobs, moments)
        if not well:  # only Ray begins again by itself what was killed
            sweep(killed, chosen, arguments.jobs, [])
        same = sum(scores(killed).get(name) == rows for name, rows in scores(peace).items())
        print(f"{kills} workers killed: {same} of {arguments.runs} runs end with the same scores; idle {1 - busy:.1%}")
    sys.exit(same < arguments.runs)


if __name__ == "__main__":
    main()
