"""The processes of this run: one, or as many as `accelerate launch` or `torchrun` started."""

from __future__ import annotations

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Rank and number of processes. Without an accelerator they talk through gloo, which must be said each time."""
    return PartialState(cpu=not torch.accelerator.is_available())
