"""The time of a step on this machine.

Linear layers with their adapters, attention, dropout, and activations that are written out in Python take most of it:
they are computed here, forward and backward, once of each shape that they have in the model, and counted as often as it
has them. What stands between them moves numbers at the rate of copying: `PASSES` times those that the layers give, the
logits included, and for clipping and AdamW 10 of 4 bytes per trained parameter. Each module without others in it calls
`CALLS` small operations, which matters to small models alone. What strategies compute is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.activations import NewGELUActivation

from clkit.engine.activations import Activations, bytes_per_number
from clkit.models.shapes import Batch, Shape
from clkit.processes import processes
from clkit.recipe.recipe import Recipe

#: How often a step passes over what linear layers give, for norms, activations, sums and their gradients; as seen on
#: one thread of a CPU, for the models of benchmarks/footprint.py.
PASSES = 10
#: Operations forward, each with its own backward, that a profile shows for each module.
CALLS = 10
#: What is larger is tried at this size: tokens and outputs of a layer, and pairs of tokens in all heads.
_TOKENS, _OUTPUTS, _PAIRS = 2048, 16384, 2**26


def step_seconds(
    recipe: Recipe, formula: Activations, batch: Batch, micro_batches: int, head: str, words: int, trained: int
) -> float:
    """Of a step of such micro-batches.

    Args:
        head: name of the layer that gives the logits, each of so many words.
        trained: numbers that the optimizer steps in.
    """
    passes = 2 if recipe.training.gradient_checkpointing else 1
    half = bytes_per_number(recipe) == 2
    kind: dict[str, Any] = {"device": processes().device, "dtype": torch.bfloat16 if half else torch.float32}
    sizes = Counter(
        (replace(one, name="", owner=""), batch.positions if one.name == head else formula.tokens(one.name, batch))
        for one in formula.layers
    )
    layers = sum(count * _of_layer(shape, tokens, passes, kind) for (shape, tokens), count in sizes.items() if tokens)
    reading = Counter(formula.tokens(block, batch) // batch.examples for block in formula.blocks)
    attention = sum(count * _of_attention(formula, batch, tokens, passes, kind) for tokens, count in reading.items())
    dropped = passes * formula.dropped(batch) * _of_numbers(lambda numbers: functional.dropout(numbers, 0.1), kind)
    activated = passes * formula.written_out(batch) * _of_numbers(NewGELUActivation(), kind)
    given = sum(formula.tokens(one.name, batch) * one.outputs for one in formula.layers if one.name != head)
    moved = PASSES * ((1 + passes) / 2 * given + batch.positions * words)
    of_number = _of_copying(kind["device"])
    moving = moved * of_number * (0.5 if half else 1)
    called = CALLS * passes * formula.modules * _of_call(kind["device"])
    computed = layers + attention + dropped + activated
    return micro_batches * (computed + moving + called) + 10 * trained * of_number


def _of_layer(shape: Shape, tokens: int, passes: int, kind: dict[str, Any]) -> float:
    count, outputs = min(tokens, _TOKENS), min(shape.outputs, _OUTPUTS)
    read = torch.ones(count, shape.inputs, **kind, requires_grad=True)
    weight = torch.ones(outputs, shape.inputs, **kind, requires_grad=shape.trained)
    down, up = (
        torch.ones(*size, **kind, requires_grad=True) for size in ((shape.rank, shape.inputs), (outputs, shape.rank))
    )
    given = torch.ones(count, outputs, **kind)

    def work() -> None:
        for _ in range(passes):
            found = functional.linear(read, weight)
            if shape.rank:
                dropped = functional.dropout(read, shape.dropout) if shape.dropout else read
                found = found + functional.linear(functional.linear(dropped, down), up)
        torch.autograd.backward(found, given)

    return _usual(work) * tokens / count * shape.outputs / outputs


def _of_attention(formula: Activations, batch: Batch, tokens: int, passes: int, kind: dict[str, Any]) -> float:
    heads, each = formula.heads, max(1, formula.width // formula.heads)
    examples = min(batch.examples, max(1, _PAIRS // (heads * tokens * batch.tokens)))
    sizes = (tokens, batch.tokens, batch.tokens)
    query, key, value = (torch.randn(examples, heads, size, each, **kind, requires_grad=True) for size in sizes)
    seen = torch.ones(examples, 1, tokens, batch.tokens, device=kind["device"], dtype=torch.bool)
    given = torch.ones_like(query)
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION] if formula.fused else []

    def work() -> None:
        with sdpa_kernel([*fused, SDPBackend.MATH]):
            for _ in range(passes):
                found = functional.scaled_dot_product_attention(query, key, value, seen, formula.attention_dropout)
        torch.autograd.backward(found, given)

    return _usual(work) * batch.examples / examples


def _of_numbers(function: Callable[[torch.Tensor], torch.Tensor], kind: dict[str, Any]) -> float:
    """Of a number that it is computed of, and its gradient."""
    numbers = torch.ones(1_000_000, **kind, requires_grad=True)
    given = torch.ones_like(numbers)
    return _usual(lambda: torch.autograd.backward(function(numbers), given)) / numbers.numel()


def _of_copying(device: torch.device) -> float:
    """Of a number of 4 bytes, that it is read or written."""
    source = torch.ones(16_000_000, device=device)
    target = torch.ones_like(source)
    return _usual(lambda: target.copy_(source)) / source.numel() / 2


def _of_call(device: torch.device) -> float:
    """Of a small operation and its backward."""
    number, count = torch.ones(8, device=device, requires_grad=True), 200

    def work() -> None:
        found = number
        for _ in range(count):
            found = found * 1.0
        torch.autograd.backward(found.sum())

    return _usual(work) / count


def _usual(work: Callable[[], object]) -> float:
    """Seconds that it takes, the median of some; on a CPU without those in which other processes computed."""
    times = []
    for _ in range(4):
        started = _clock()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(_clock() - started)
    return statistics.median(times[1:])


def _clock() -> float:
    return time.perf_counter() if torch.cuda.is_available() else time.process_time() / torch.get_num_threads()
