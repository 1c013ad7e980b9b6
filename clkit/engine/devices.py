"""What a run is trained on: this machine's device, or one that `--device` describes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from clkit.errors import UsageError
from clkit.processes import processes


@dataclass(frozen=True)
class Device:
    """What a run is trained on.

    Attributes:
        count: how many, each with a process of its own.
        room: bytes that one has.
        here: whether it is this machine's, whose speed can be seen.
    """

    name: str
    count: int
    room: int
    fused: bool
    here: bool = False

    @classmethod
    def parse(cls, text: str) -> Device:
        """GPUs as `--device` names them: ``2x24GB``, 10⁹ bytes each GB.

        Raises:
            UsageError: it does not.
        """
        found = re.fullmatch(r"([1-9]\d{0,4})x(\d{1,6}(?:\.\d+)?)GB", text.strip(), re.IGNORECASE)
        if found is None or not float(found[2]):
            raise UsageError(f"--device: '{text}' is no device; write number and memory of the GPUs, such as 1x24GB")
        return cls(text.strip(), int(found[1]), int(float(found[2]) * 1e9), fused=True)

    @classmethod
    def of_this_machine(cls) -> Device:
        """The device that training would use here, or the machine's memory."""
        state = processes()
        if state.device.type == "cuda":
            name, room = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
            return cls(name, state.num_processes, room, fused=True, here=True)
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // state.num_processes
        return cls("this machine's CPU", state.num_processes, room, fused=False, here=True)
