"""What inspect-magnitudes costs beside the bare forward passes: CPU time of both, interleaved, and their ratio.

    python benchmarks/inspect_magnitudes.py MODEL CL_BENCHMARK

Four tasks of 200 examples each; the batches are made beforehand. The measurement takes in what `measure_magnitudes`
does with them: collecting, choosing rows batch by batch, normalising.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from clkit.engine import inspection
from clkit.engine.prepare import labels_of, load_learner
from clkit.events import Listener
from clkit.models.family import Batch
from clkit.models.layers import select_ranked
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe

TASKS = ("dbpedia", "amazon", "yahoo", "agnews")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="in the CL_Benchmark layout")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folders = {name: next(options.folder.resolve().glob(f"*/{name}")) for name in TASKS}
    tasks = [{"name": name, "source": {"kind": "folder", "folder": str(folder)}} for name, folder in folders.items()]
    recipe = Recipe.model_validate(
        {"name": "cost", "model": {"name": options.model}, "tasks": tasks, "data": {"train_per_task": options.examples}}
    )
    loaded = load_tasks(recipe)
    family = load_learner(recipe, labels_of(loaded))
    watching = inspection.Watching(["attention", "feed_forward"], examples=options.examples)
    watched = select_ranked(family, watching.layers, "layers")
    made = {task.name: [*inspection.batches(family, task, recipe, watching, Listener())] for task in loaded}

    def bare() -> None:
        with torch.no_grad():
            for batch in (batch for batches in made.values() for batch in batches):
                family.model(**{key: value for key, value in batch.items() if key != "labels"})

    def prepared(_: Any, task: Any, *__: Any) -> list[Batch]:
        return made[task.name]

    def measured() -> None:
        with patch.object(inspection, "batches", prepared):
            inspection.measure_magnitudes(family, loaded, watched, recipe, watching, Listener())

    family.model.eval()
    seconds: dict[str, list[float]] = {"bare": [], "measured": []}
    for _ in range(options.repeats + 1):  # the first warms up
        for name, work in (("bare", bare), ("measured", measured)):
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    ratios = [with_it / without for without, with_it in zip(*(one[1:] for one in seconds.values()), strict=True)]
    print(f"{len(watched)} layers, {sum(map(len, made.values()))} batches, {torch.get_num_threads()} threads")
    print(f"bare {median(seconds['bare'][1:]):.3f} s, measured {median(seconds['measured'][1:]):.3f} s")
    print(f"ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
