"""python benchmarks/migu_step.py

What MIGU (`mask: gradient`) adds to a training step, side by side with plain fine-tuning, at T5-small shapes
(d_model 512, d_ff 2048), batch 8 × 128 tokens. Prints the ratio of step times, pair by pair, with its spread.
Both train in turns in one process (plain, MIGU, MIGU, plain, ...), so that drift of the machine hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.family import Family
from clkit.models.objective import TextToText
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.strategies.contract import Context, Strategy

BATCH, SOURCE, TARGET = 8, 128, 8


def t5_small() -> Family:
    """T5-small's shapes with random weights."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, decoder_start_token_id=0, dropout_rate=0.0)
    return Seq2Seq(T5ForConditionalGeneration(config).train(), None, TextToText())  # type: ignore[arg-type]


def random_batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Eight examples, a quarter of their source padded."""
    mask = torch.ones(BATCH, SOURCE, dtype=torch.long)
    mask[: BATCH // 2, SOURCE // 2 :] = 0
    return {
        "input_ids": torch.randint(3, 32000, (BATCH, SOURCE), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(3, 32000, (BATCH, TARGET), generator=generator),
    }


class Run:
    """A model in training, with or without a strategy."""

    def __init__(self, strategy: Strategy | None) -> None:
        self.loaded = t5_small()
        self.optimizer = torch.optim.AdamW(self.loaded.model.parameters(), lr=1e-4)
        self.strategies = [strategy] if strategy else []
        self.context = Context(
            family=self.loaded,
            task=None,  # type: ignore[arg-type]
            task_index=1,
            seed=0,
        )
        for one in self.strategies:
            one.before_task(self.context)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Seconds that one whole step takes: forward, backward, clip, mask, optimizer."""
        started = time.perf_counter()
        for one in self.strategies:
            one.before_forward(self.context, batch)
        loss = self.loaded.model(**batch).loss
        for one in self.strategies:
            one.after_forward(self.context, batch)
        loss.backward()
        for one in self.strategies:
            one.before_step(self.context)
        torch.nn.utils.clip_grad_norm_(self.loaded.model.parameters(), 1.0)
        self.optimizer.step()
        for one in self.strategies:
            one.after_step(self.context)
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--mask", choices=["gradient", "update"], default="gradient")
    arguments = parser.parse_args()

    plain, migu = Run(None), Run(MIGU(MIGUOptions(name="migu", mask=arguments.mask)))
    generator = torch.Generator().manual_seed(1)
    ratios, seconds = [], []
    for pair in range(-3, arguments.pairs):  # three pairs to warm up
        batch = random_batch(generator)
        order = [plain, migu] if pair % 2 else [migu, plain]
        times = {id(run): run.step(batch) for run in order}
        if pair >= 0:
            ratios.append(times[id(migu)] / times[id(plain)])
            seconds.append(times[id(plain)])
    quarter = statistics.quantiles(ratios, n=4)
    print(f"plain step {statistics.median(seconds):.3f} s (median of {arguments.pairs})")
    print(
        f"MIGU mask: {arguments.mask} / plain: median {statistics.median(ratios):.3f}, quartiles {quarter[0]:.3f} to "
        f"{quarter[2]:.3f}, range {min(ratios):.3f} to {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
