"""python benchmarks/ewc_step.py

What EWC's penalty adds to a training step, side by side with plain fine-tuning, at T5-small shapes (60 million
parameters), batch 8 × 128 tokens. Prints the ratio of step times, pair by pair, with its spread. It should be at most
1.15. Both train in turns in one process (plain, EWC, EWC, plain, ...), so that drift of the machine hits both alike.
Weights, data and Fisher are random.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace

import torch
from migu_step import random_batch, t5_small

from clkit.strategies.builtin.ewc import EWC, EWCOptions
from clkit.strategies.contract import Context


class Run:
    """A model in training on its second task, with or without EWC."""

    def __init__(self, strategy: EWC | None) -> None:
        loaded = t5_small()
        self.model = loaded.model
        self.trained = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        self.context = Context(
            family=loaded,
            task=SimpleNamespace(name="second"),  # type: ignore[arg-type]
            task_index=1,
            seed=0,
        )
        self.strategy = strategy
        if strategy is not None:
            weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
            fishers = {f"fisher/{name}": 1e-6 * torch.rand_like(weight) for name, weight in weights.items()}
            centers = {f"center/{name}": weight.clone() for name, weight in weights.items()}
            strategy.load_state_dict({**fishers, **centers})

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Seconds that one whole step takes (forward, backward, penalty, clip, optimizer), and the penalty's part."""
        started = time.perf_counter()
        self.model(**batch).loss.backward()
        before_penalty = time.perf_counter()
        if self.strategy is not None:
            self._add_penalty(self.strategy)
        after_penalty = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started, after_penalty - before_penalty

    def _add_penalty(self, strategy: EWC) -> None:
        # As the engine does.
        penalty = strategy.penalty(self.context)
        assert penalty is not None
        gradients = torch.autograd.grad(penalty * 1.0, self.trained, allow_unused=True)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            assert parameter.grad is not None
            assert gradient is not None
            parameter.grad += gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    arguments = parser.parse_args()

    plain, ewc = Run(None), Run(EWC(EWCOptions(name="ewc")))
    generator = torch.Generator().manual_seed(1)
    ratios, seconds, penalties = [], [], []
    for pair in range(-3, arguments.pairs):  # three pairs to warm up
        batch = random_batch(generator)
        order = [plain, ewc] if pair % 2 else [ewc, plain]
        times = {id(run): run.step(batch) for run in order}
        if pair >= 0:
            ratios.append(times[id(ewc)][0] / times[id(plain)][0])
            seconds.append(times[id(plain)][0])
            penalties.append(times[id(ewc)][1])
    quarter = statistics.quantiles(ratios, n=4)
    print(f"plain step {statistics.median(seconds):.3f} s (median of {arguments.pairs})")
    print(
        f"EWC / plain: median {statistics.median(ratios):.3f}, quartiles {quarter[0]:.3f} to "
        f"{quarter[2]:.3f}, range {min(ratios):.3f} to {max(ratios):.3f}"
    )
    print(f"the penalty takes {1000 * statistics.median(penalties):.1f} ms of the step")


if __name__ == "__main__":
    main()
