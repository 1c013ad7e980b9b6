"""Random draws that follow from names, numbers or data alone: every process and a resumed run make the same ones."""

from __future__ import annotations

import hashlib
import heapq
import random
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from clkit.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def seeded(*purpose: str | int) -> random.Random:
    """A generator for one purpose: what is drawn for, the recipe's seed, the task's place, ...

    Of its methods only `random` and `getrandbits` promise a stream that no Python release changes.
    """
    return random.Random("/".join(map(str, purpose)))


def torch_seeded(*purpose: str | int) -> torch.Generator:
    """The same as torch's generator; on the CPU, so that every device draws the same."""
    return torch.Generator().manual_seed(seeded(*purpose).getrandbits(63))


def drawn_from(rows: Iterable[Sequence[int]]) -> random.Random:
    """A generator whose state follows from these token ids, on every machine, in every process and release.

    Seeded by a batch, the draws for an example differ from epoch to epoch, for it stands among others each time, and
    those of an interrupted or repeated pass over the same batches are the same.

    Args:
        rows: the token ids of each example of a batch.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(list(row)).encode())
    return random.Random(digest.digest())


def sample(population: int, count: int, rng: random.Random) -> list[int]:
    """``count`` of the indices below ``population``, drawn without replacement; ascending."""
    drawn = array("d", (rng.random() for _ in range(population)))
    if count >= population:
        return list(range(population))
    # The `count` smallest, the first of equal ones before the others: of millions no list of pairs is made.
    last = sorted(drawn)[count]
    below = [index for index, value in enumerate(drawn) if value < last]
    ties = (index for index, value in enumerate(drawn) if value == last)
    return sorted([*below, *islice(ties, count - len(below))])


def balanced_sample(answers: Sequence[Hashable], count: int, rng: random.Random) -> list[int]:
    """Indices of ``count`` examples, as many of each answer as far as there are; ascending.

    Where the answers cannot share evenly, chance decides which of them have one example more.
    """
    turns: Counter[Hashable] = Counter()

    def order() -> Iterator[tuple[int, float, int]]:
        # Answers take turns: each gives an example, in random order, before any gives another.
        for index in sorted(range(len(answers)), key=lambda _: rng.random()):
            yield turns[answers[index]], rng.random(), index
            turns[answers[index]] += 1

    return sorted(index for _, _, index in heapq.nsmallest(count, order()))


def reservoir_sample(stream: int, seen: int, capacity: int, rng: random.Random) -> dict[int, int]:
    """Algorithm R (Vitter 1985): which slots of the reservoir the next ``stream`` examples take, the last ones to stay.

    Args:
        seen: examples of the stream before these; the slots below min(seen, capacity) are taken.

    Returns:
        Slot -> index of the example, from 0. Afterwards each of the n = seen + stream examples is in the reservoir
        with the probability min(1, capacity / n).
    """
    slots = {}
    for index in range(stream):
        place = seen + index
        slot = place if place < capacity else int(rng.random() * (place + 1))
        if slot < capacity:
            slots[slot] = index
    return slots
