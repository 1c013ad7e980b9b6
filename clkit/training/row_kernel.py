"""The arithmetic of `RowAdamW`: compiled where that can be (`clkit.models.kernels`), else in torch.

Both compute the same float32 operations in the same order, to the last bit. Compiled, a row is read and written once;
in torch, rows are copied out, changed in many passes, and copied back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from clkit.models.kernels import kernels, pointers


class RowStep(NamedTuple):
    """What a step in some rows of a weight needs.

    Attributes:
        state: the weight and both moments, which are changed in place.
        rows: the indices of the rows.
        places: which of the moments' rows are theirs.
        gradients: some of their gradients.
        given: which of the gradients is each row's, or −1: none, it is zero.
        decay1, decay2: β1^l and β2^l of each row.
        sizes, scales: lr / (1 − β1^t) and 1 / √(1 − β2^t) of each row.
        by: 1 − β1, 1 − β2, 1 − lr λ, ε.
    """

    state: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    rows: torch.Tensor
    places: torch.Tensor
    gradients: torch.Tensor
    given: torch.Tensor
    decay1: torch.Tensor
    decay2: torch.Tensor
    sizes: torch.Tensor
    scales: torch.Tensor
    by: Sequence[float]


RowKernel = Callable[[RowStep], None]


def row_kernel() -> RowKernel:
    """The compiled one, or torch's."""
    library = kernels()
    return step_rows if library is None else partial(_compiled, library.step_rows)


def _compiled(function: Any, step: RowStep) -> None:
    width = step.gradients.shape[1]
    zeros = torch.zeros(width)
    by_row = (step.decay1, step.decay2, step.sizes, step.scales)
    found = pointers(*step.state, step.rows, step.places, step.gradients, step.given, zeros, *by_row)
    by = (ctypes.c_float * len(step.by))(*step.by)
    function(*found, by, ctypes.c_int64(len(step.rows)), ctypes.c_int64(width))


def step_rows(step: RowStep) -> None:
    """`row_kernel` in torch; no `addcmul` and the like, which round once where C rounds twice.

    The root is numpy's: torch's own is not always the float nearest to it.
    """
    rest1, rest2, shrink, eps = torch.tensor(step.by, dtype=torch.float32)
    where = (step.rows, step.places, step.places)
    weight, first, second = (tensor.index_select(0, rows) for tensor, rows in zip(step.state, where, strict=True))
    gradient = step.gradients.index_select(0, step.given.clamp(min=0)) * (step.given >= 0).unsqueeze(1)
    first = first * step.decay1.unsqueeze(1) + gradient * rest1
    second = second * step.decay2.unsqueeze(1) + gradient * gradient * rest2
    root = torch.from_numpy(np.sqrt(second.numpy()))
    weight = weight * shrink - first / (root * step.scales.unsqueeze(1) + eps) * step.sizes.unsqueeze(1)
    for tensor, rows, new in zip(step.state, where, (weight, first, second), strict=True):
        tensor.index_copy_(0, rows, new)
