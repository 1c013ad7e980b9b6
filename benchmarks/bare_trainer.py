"""OMP_NUM_THREADS=1 python benchmarks/bare_trainer.py [--pairs 7]

What clkit adds to the Trainer of transformers where there are no strategies: the quickstart's first task, the same
model, data and arguments, whole trainings in turns (one, the other, the other, one, ...), from the end of the first
step to that of the last. The time is that of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from clkit.engine.fit import fit
from clkit.engine.prepare import prepare
from clkit.events import Listener
from clkit.models.examples import encode
from clkit.recipe.recipe import Recipe
from clkit.training.arguments import training_arguments


class Ends(Listener, TrainerCallback):
    """Notes when steps end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stepped(self, step: int) -> None:
        self.times.append(time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.stepped(0)

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    pairs: int = parser.parse_args().pairs
    recipe = Recipe.load("quickstart", ["strategies=[]", "training.epochs=1", "data.train_per_task=320"])
    prepared = prepare(recipe)
    family = prepared.family
    encoded = encode(family, prepared.examples(prepared.stages[0]))

    def ours() -> float:
        ends = Ends()
        fit(prepared, 0, ends)
        return ends.seconds

    def theirs() -> float:
        ends = Ends()
        with TemporaryDirectory() as folder:
            arguments = training_arguments(recipe, "topics", 0, folder)
            trainer = Trainer(family.model, arguments, family.collator(), encoded, callbacks=[ends])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return ends.seconds

    ratios = []
    for pair in range(-1, pairs):  # one to warm up
        times = {way: way() for way in ([ours, theirs] if pair % 2 else [theirs, ours])}
        ratios += [times[ours] / times[theirs]] if pair >= 0 else []
    low, middle, high = statistics.quantiles(ratios, n=4)
    steps, threads = len(encoded) // recipe.training.batch_size, torch.get_num_threads()
    what = f"{pairs} pairs of {steps} steps, {threads} threads"
    print(f"{what}: {middle:.3f} times the bare Trainer ({low:.3f} – {high:.3f})")


if __name__ == "__main__":
    main()
