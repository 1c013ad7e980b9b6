"""The C functions of `kernels.c`, made by the machine's own compiler when they are first needed.

Where there is none, or nothing can be written, whoever calls them has a way in torch.
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
from functools import cache
from pathlib import Path

import torch

_FLAGS = ("-O3", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")


@cache
def kernels() -> ctypes.CDLL | None:
    """The functions, built once and kept in the user's cache; None where they cannot be built."""
    try:
        library = ctypes.CDLL(str(_library()))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None
    library.step_rows.restype = library.sum_magnitudes.restype = None
    return library


def pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    """Where contiguous tensors of the CPU begin; they must outlive the call."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _library() -> Path:
    """The compiled file, which is named after its source, so that none is ever older than it.

    Raises:
        OSError, RuntimeError, SubprocessError: there is no compiler or no home, it fails, or nothing can be written.
    """
    source = Path(__file__).with_suffix(".c")
    made_of = (source.read_text("utf-8"), _FLAGS, platform.machine(), sys.platform)
    name = f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clkit")
    library = folder / name
    if not library.is_file():
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise OSError("no C compiler")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, name)
            command = [compiler, *_FLAGS, str(source), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(library)  # whole, whoever else compiles it at the same time
    return library
