"""The processes of this run: one, or as many as `accelerate launch` or `torchrun` started."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState

from clkit.errors import UsageError


def processes() -> PartialState:
    """Rank and number of processes. Without an accelerator they talk through gloo, which must be said each time.

    Raises:
        UsageError: `accelerate launch` was asked for several processes but started only this one.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    # Unless it sees several GPUs, `accelerate launch --num_processes 2` starts a single process and says nothing. This
    # address, which it sets only where several processes are asked for, is all that the process can know of the 2.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and state.backend is None and os.environ.get("MASTER_ADDR") == "127.0.0.1":
        raise UsageError(
            "accelerate launch was asked for several processes and started one; give it --multi_gpu, and no --cpu "
            "(on a machine without a GPU the processes then talk through gloo)"
        )
    return state
