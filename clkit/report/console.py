"""Where output goes: data to stdout, progress and remarks to stderr; libraries are kept quiet."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import IO

from rich.console import Console

PIPED_WIDTH = 100


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever reads has had enough; rich would end with a failure's code."""
        raise BrokenPipeError


def make_console(file: IO[str] | None = None) -> Console:
    """A console whose piped output is the same everywhere: no escape codes, COLUMNS or else 100 characters wide.

    Args:
        file: stdout unless given.
    """
    stream = file or sys.stdout
    width = None
    if not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) > 0 else PIPED_WIDTH
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """The console for progress and remarks."""
    return make_console(sys.stderr)


def quiet_what_loads() -> None:
    """Silence the warnings of libraries that are loaded later, if at all, without loading them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft|datasets)\b")


def quiet_libraries() -> None:
    """Silence the progress bars and warnings of the libraries below, which would tear the display; errors remain."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of six tries to reach the hub
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    quiet_what_loads()
