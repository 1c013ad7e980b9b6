"""python benchmarks/real_table.py --model T5 --data CL_Benchmark [--order 1] [--runs FOLDER] [METHOD ...]

Every method on real data, each with a learning rate tuned for it: the table of benchmarks/README.md.

The rate of each method is the one with the best average accuracy on the validation split (with a seed of its own);
where the best rate stands at the end of the grid, the grid grows. The table then shows the test split over three seeds.
A finished run in FOLDER is not repeated, so an interrupted table goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from methods import METHODS
from runs import Job, markdown, means, slug, train_all

from clkit.results.spread import aggregate
from clkit.run.atomic import write_json

TUNING_SEED = 7
SEEDS = (42, 1024, 2048)
SHOWN = ("average_accuracy", "bwt", "forgetting", "learning_accuracy")
STEP = 3.0  # between neighbouring rates of a grid that grows
MOST_RATES = 4
#: What differs from the paper's recipe: a small model, few and short examples, and the sentence alone as the prompt, so
#: that nothing tells the model which task it sees.
SMALL = (
    "data.train_per_label=null",
    "prompt.task_name=false",
    "prompt.style=text",
    "prompt.max_tokens=32",
    "training.micro_batch_size=null",
    "training.batch_size=8",
    "training.epochs=3",
    "evaluation.zero_shot=false",
    "saving.models=last",
    "data.validation_share=0.1",
)
TRAIN, TEST = 128, 100  # examples a task


class Table:
    """The runs of one order."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._recipe = f"t5_order{arguments.order}"
        self._sizes = (
            f"data.train_per_task={arguments.train}",
            f"data.test_per_task={arguments.test}",
            f"model.name={arguments.model}",
            f"benchmark.folder={arguments.data}",
        )

    def job(self, name: str, rate: float, seed: int, split: str) -> Job:
        """One run of a method."""
        overrides = (
            *SMALL,
            *self._sizes,
            "training.per_task={}",
            *METHODS[name].overrides,
            f"training.learning_rate={rate:g}",
            f"seed={seed}",
            f"evaluation.split={split}",
        )
        folder = self._arguments.runs / f"order{self._arguments.order}" / f"{slug(name)}-{split}-{rate:g}-{seed}"
        return Job(folder, self._recipe, overrides)

    def tune(self, names: list[str]) -> dict[str, float]:
        """The best rate of each method on the validation split."""
        scores: dict[str, dict[float, float]] = {name: {} for name in names}
        waiting = {name: list(METHODS[name].rates) for name in names}
        while any(waiting.values()):
            jobs = {
                (name, rate): self.job(name, rate, TUNING_SEED, "validation")
                for name, rates in waiting.items()
                for rate in rates
            }
            matrices = train_all(jobs.values(), self._arguments.jobs)
            for (name, rate), job in jobs.items():
                value = matrices[job.folder].metrics()["average_accuracy"].value
                assert value is not None
                scores[name][rate] = value
            waiting = {name: next_rates(scores[name]) for name in names}
        for name in names:
            tried = ", ".join(f"{rate:g}: {100 * score:.1f}" for rate, score in sorted(scores[name].items()))
            print(f"{name}: validation {tried}", flush=True)
        return {name: best_rate(scores[name]) for name in names}

    def rows(self, rates: dict[str, float]) -> list[list[str]]:
        """The table's rows: the test split at each method's rate, over the seeds."""
        jobs = {(name, seed): self.job(name, rate, seed, "test") for name, rate in rates.items() for seed in SEEDS}
        matrices = train_all(jobs.values(), self._arguments.jobs)
        return [
            [name, f"{rate:g}", *means(aggregate([matrices[jobs[name, seed].folder] for seed in SEEDS]), SHOWN)]
            for name, rate in rates.items()
        ]


def best_rate(scores: dict[float, float]) -> float:
    """The rate with the best score; of equal ones the lowest."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def next_rates(scores: dict[float, float]) -> list[float]:
    """The rate beyond the end of the grid where the best one stands there; nothing once it lies inside."""
    best, tried = best_rate(scores), sorted(scores)
    if len(tried) >= MOST_RATES:
        return []
    if best == tried[0]:
        return [float(f"{best / STEP:.1g}")]
    return [float(f"{best * STEP:.1g}")] if best == tried[-1] else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of: {'; '.join(METHODS)}")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--order", type=int, default=1, choices=range(1, 7))
    parser.add_argument("--train", type=int, default=TRAIN, help="training examples a task")
    parser.add_argument("--test", type=int, default=TEST, help="test examples a task")
    parser.add_argument("--rates", type=Path, help="rates.json of an order that was tuned before, instead of tuning")
    parser.add_argument("--runs", type=Path, default=Path("runs/real_table"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    arguments = parser.parse_args()
    names = arguments.methods or list(METHODS)
    if unknown := set(names) - set(METHODS):
        parser.error(f"unknown method {unknown.pop()!r} (choose from: {'; '.join(METHODS)})")

    table = Table(arguments)
    if arguments.rates:
        rates = {name: rate for name, rate in json.loads(arguments.rates.read_text()).items() if name in names}
    else:
        rates = table.tune(names)
        kept = arguments.runs / f"order{arguments.order}" / "rates.json"
        write_json(kept, (json.loads(kept.read_text()) if kept.is_file() else {}) | rates)
    print(markdown(["method", "rate", *SHOWN], table.rows(rates)))


if __name__ == "__main__":
    main()
