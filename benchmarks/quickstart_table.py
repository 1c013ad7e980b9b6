"""python benchmarks/quickstart_table.py [--seeds 5] [--jobs 2] [--runs FOLDER] [METHOD ...]

Every method on the quickstart over several seeds: the first table of `benchmarks/README.md`. A finished run in FOLDER
is not repeated. About a minute per run on one core.

Full tuning keeps the quickstart's learning rate and adapters take LORA_RATE, at which plain tuning of each kind learns
every task; no method's rate is tuned for it here (`real_table.py` does that, on real data).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from methods import LORA_RATES, METHODS
from runs import Job, markdown, means, slug, train_all

from clkit.results.spread import aggregate

LORA_RATE = "1e-3"
SHOWN = ("average_accuracy", "bwt", "forgetting", "learning_accuracy")


def job(runs: Path, name: str, seed: int) -> Job:
    """One run of a method."""
    method = METHODS[name]
    rate = (f"training.learning_rate={LORA_RATE}",) if method.rates == LORA_RATES else ()
    overrides = (*method.overrides, *rate, f"seed={seed}", "saving.models=last")
    return Job(runs / f"{slug(name)}-{seed}", "quickstart", overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of: {'; '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart_table"))
    arguments = parser.parse_args()
    names = arguments.methods or list(METHODS)
    if unknown := set(names) - set(METHODS):
        parser.error(f"unknown method {unknown.pop()!r} (choose from: {'; '.join(METHODS)})")

    jobs = {(name, seed): job(arguments.runs, name, seed) for name in names for seed in range(1, arguments.seeds + 1)}
    matrices = train_all(jobs.values(), arguments.jobs)
    rows = []
    for name in names:
        metrics = aggregate([matrices[jobs[name, seed].folder] for seed in range(1, arguments.seeds + 1)])
        rows.append([name, *means(metrics, SHOWN)])
    print(markdown(["method", *SHOWN], rows))


if __name__ == "__main__":
    main()
