"""In what order a task's examples are trained on: micro-batches, or whole batches, of examples of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from clkit.draws import torch_seeded


class SortedWithinSteps(Sampler[int]):
    """The Trainer's own random order, but within each optimizer step the longest examples first.

    A step's micro-batches are then of examples of similar length, so that less of them is padding. The step itself is
    the same up to rounding, since its loss is that of all its examples together.

    Args:
        lengths: of each example, in tokens.
        batch: how many examples a step has.
        seed: the Trainer's for data.
        epoch: tells which pass over the data, from 0, is about to begin or to go on.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths, self._batch, self._epoch = list(lengths), batch, epoch
        self._random = SeedableRandomSampler(self._lengths, data_seed=seed)

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        self._random.set_epoch(self._epoch())
        order = list(self._random)
        for start in range(0, len(order), self._batch):
            yield from sorted(order[start : start + self._batch], key=lambda index: -self._lengths[index])


class GroupedByLength(Sampler[int]):
    """Examples at random, but those of one batch of similar length; the longest batch first.

    The order of an epoch follows from the seed and its number alone. The Trainer's own sampler draws from the global
    generator, so an interrupted task would go on with other batches.

    Args:
        lengths: of each example, in tokens.
        batch: how many examples are to be similar: those of an optimizer step.
        epoch: tells which pass over the data, from 0, is about to begin or to go on.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths = list(lengths)
        self._batch = batch
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch_seeded("order", self._seed, self._epoch())
        yield from get_length_grouped_indices(self._lengths, self._batch, generator=generator)
