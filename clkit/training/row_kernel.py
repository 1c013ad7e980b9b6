"""The arithmetic of `RowAdamW`: compiled by the machine's own C compiler where there is one, else in torch.

Both compute the same float32 operations in the same order, to the last bit. Compiled, a row is read and written once;
in torch, rows are copied out, changed in many passes, and copied back.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch


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

_SOURCE = r"""
#include <math.h>
#include <stdint.h>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void step_rows(float *restrict weights, float *restrict first, float *restrict second, const int64_t *rows,
               const int64_t *places, const float *restrict gradients, const int64_t *given, const float *zeros,
               const float *decay1, const float *decay2, const float *sizes, const float *scales, const float *by,
               int64_t count, int64_t width) {
  const float rest1 = by[0], rest2 = by[1], shrink = by[2], eps = by[3];
  for (int64_t i = 0; i < count; i++) {
    float *w = weights + rows[i] * width, *m = first + places[i] * width, *v = second + places[i] * width;
    const float *g = given[i] < 0 ? zeros : gradients + given[i] * width;
    const float a = decay1[i], b = decay2[i], size = sizes[i], scale = scales[i];
    for (int64_t j = 0; j < width; j++) {
      const float mj = m[j] * a + g[j] * rest1;
      const float vj = v[j] * b + g[j] * g[j] * rest2;
      m[j] = mj;
      v[j] = vj;
      w[j] = w[j] * shrink - mj / (sqrtf(vj) * scale + eps) * size;
    }
  }
}
"""
_FLAGS = ("-O3", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")


@cache
def row_kernel() -> RowKernel:
    """The compiled one, built when it is first asked for and kept in the user's cache; without a compiler, torch's."""
    try:
        function = ctypes.CDLL(str(_library())).step_rows
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return step_rows
    function.restype = None

    def compiled(step: RowStep) -> None:
        width = step.gradients.shape[1]
        zeros = torch.zeros(width)
        by_row = (step.decay1, step.decay2, step.sizes, step.scales)
        tensors = (*step.state, step.rows, step.places, step.gradients, step.given, zeros, *by_row)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        by = (ctypes.c_float * len(step.by))(*step.by)
        function(*pointers, by, ctypes.c_int64(len(step.rows)), ctypes.c_int64(width))

    return compiled


def _library() -> Path:
    """The compiled file, which is named after its source, so that none is ever older than it.

    Raises:
        OSError, RuntimeError, SubprocessError: there is no compiler or no home, it fails, or nothing can be written.
    """
    name = f"{hashlib.sha256(repr((_SOURCE, _FLAGS, platform.machine(), sys.platform)).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clkit")
    library = folder / name
    if not library.is_file():
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise OSError("no C compiler")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch, "rows.c")
            source.write_text(_SOURCE, "utf-8")
            made = Path(scratch, name)
            command = [compiler, *_FLAGS, str(source), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(library)  # whole, whoever else compiles it at the same time
    return library


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
