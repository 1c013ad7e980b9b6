"""What a run can die of through no fault of its recipe, and what helps: memory, and space on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import torch

from clkit.errors import ClkitError, StrategyError

#: What torch's writer says instead of the operating system's error.
_TORCH_CANNOT_WRITE = ("inline_container", "PytorchStreamWriter")


def explained(error: Exception, run: Path) -> ClkitError | None:
    """A clear error in place of a library's, where it means that memory or space on the disk has run out."""
    if isinstance(error, StrategyError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in said:
        return ClkitError(
            "out of memory: free some that other programs hold and go on with --resume, or train into another folder "
            "(--run DIR) with a smaller training.micro_batch_size or evaluation.batch_size, or with "
            f"training.gradient_checkpointing: true. What was saved in {run} before is kept"
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in said or any(part in said for part in _TORCH_CANNOT_WRITE):
        return ClkitError(
            f"no space left on the disk of {run}, or it cannot be written: make room and go on with --resume; "
            "saving.keep_checkpoints=1 and saving.models=last need less. What was saved before is kept"
        )
    return None
