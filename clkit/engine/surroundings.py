"""What training sets for the whole process, and sets back."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

#: Matrix products on CUDA are repeatable only with this.
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def repeatable_and_quiet() -> Iterator[None]:
    """Inside, results are repeatable and no library shows a progress bar of its own; afterwards all is as it was.

    That goes for what the process draws at random next, and for its environment too.
    """
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    environment, verbosity = dict(os.environ), logging.get_verbosity()
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    bars = (
        (logging.is_progress_bar_enabled(), logging.enable_progress_bar, logging.disable_progress_bar),
        # Behind that of transformers, which switches the hub's too.
        (not are_progress_bars_disabled(), enable_progress_bars, disable_progress_bars),
        (not datasets.are_progress_bars_disabled(), datasets.enable_progress_bars, datasets.disable_progress_bars),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    os.environ.setdefault(CUBLAS, ":4096:8")
    for _, _, disable in bars:
        disable()
    # Each training begins by collecting garbage, which would look through half a million objects of imports each time.
    frozen = gc.get_freeze_count()
    if not frozen:
        gc.freeze()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)
        if not frozen:
            gc.unfreeze()
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        for name in [*os.environ]:
            if name not in environment:
                del os.environ[name]
        os.environ.update(environment)
        logging.set_verbosity(verbosity)
        for shown, enable, disable in bars:
            (enable if shown else disable)()
