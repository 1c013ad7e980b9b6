"""python benchmarks/olora_step.py

Whether O-LoRA's step grows with the number of tasks: the step on the last task of a sequence (task 15) beside the step
on its second, at T5-small shapes (d_model 512, adapters of rank 8 on queries and values), batch 8 × 128 tokens. Prints
the ratio of step times, pair by pair, with its spread, and what is kept. It should be at most 1.05.
Both train in turns in one process, so that drift of the machine hits both alike. Weights and data are random.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace

import torch
from migu_step import random_batch, t5_small

from clkit.models.adapters import add_adapter
from clkit.models.loading import begin_task
from clkit.models.sections import IncrementalLoraTuning
from clkit.strategies.builtin.olora import OLoRA, OLoRAOptions
from clkit.strategies.contract import Context

TUNING = IncrementalLoraTuning(method="incremental_lora", rank=8, alpha=32.0, dropout=0.0)


class Run:
    """A model in training on a task, after it went through the boundaries of all tasks before it."""

    def __init__(self, task: int) -> None:
        """Begin task ``task``, counted from 1."""
        loaded = t5_small()
        add_adapter(loaded, TUNING)
        self.strategy = OLoRA(OLoRAOptions(name="olora"))
        for index in range(task):
            begin_task(loaded, TUNING, index, seed=index)
            self.context = Context(
                family=loaded,
                task=SimpleNamespace(name=str(index)),  # type: ignore[arg-type]
                task_index=index,
                seed=0,
            )
            self.strategy.before_task(self.context)
            if index + 1 < task:
                self.strategy.after_task(self.context)
        self.model = loaded.model.train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def kept(self) -> int:
        """Bytes of the earlier adapters' A matrices."""
        return sum(a.numel() * a.element_size() for a in self.strategy.state_dict().values())

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Seconds that one whole step takes (forward, backward, penalty, clip, optimizer), and the penalty's part."""
        started = time.perf_counter()
        self.model(**batch).loss.backward()
        before_penalty = time.perf_counter()
        penalty = self.strategy.penalty(self.context)
        assert penalty is not None
        penalty.backward()  # type: ignore[no-untyped-call]
        after_penalty = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started, after_penalty - before_penalty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=15)
    arguments = parser.parse_args()

    second, last = Run(2), Run(arguments.tasks)
    generator = torch.Generator().manual_seed(1)
    ratios, seconds = [], []
    penalties: dict[int, list[float]] = {id(second): [], id(last): []}
    for pair in range(-3, arguments.pairs):  # three pairs to warm up
        batch = random_batch(generator)
        order = [second, last] if pair % 2 else [last, second]
        times = {id(run): run.step(batch) for run in order}
        if pair >= 0:
            ratios.append(times[id(last)][0] / times[id(second)][0])
            seconds.append(times[id(second)][0])
            for key, (_, penalty) in times.items():
                penalties[key].append(penalty)
    quarter = statistics.quantiles(ratios, n=4)
    print(f"step on task 2: {statistics.median(seconds):.3f} s (median of {arguments.pairs})")
    print(
        f"task {arguments.tasks} / task 2: median {statistics.median(ratios):.3f}, quartiles {quarter[0]:.3f} to "
        f"{quarter[2]:.3f}, range {min(ratios):.3f} to {max(ratios):.3f}"
    )
    for task, run in ((2, second), (arguments.tasks, last)):
        parameters = sum(parameter.numel() for parameter in run.trained)
        print(
            f"task {task}: the penalty takes {1000 * statistics.median(penalties[id(run)]):.1f} ms of its step; "
            f"A matrices kept: {run.kept() / 2**20:.2f} MiB; trained parameters: {parameters:,}"
        )


if __name__ == "__main__":
    main()
