"""Where output goes: data to stdout, progress and remarks to stderr; libraries are kept quiet."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import IO, Any, cast

from rich.console import Console

PIPED_WIDTH = 100


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
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


class _Unfailing:
    """A stream to which nothing more is written once that failed: no training ends because nobody reads its progress.

    Everything else is the stream's own.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a pipe that nobody reads, a full disk; a terminal that was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def stderr() -> Console:
    """The console for progress and remarks."""
    return make_console(cast(IO[str], _Unfailing(sys.stderr)))


def quiet_libraries() -> None:
    """Silence the progress bars and warnings of the libraries below, which would tear the display; errors remain."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of six tries to reach the hub
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft|datasets)\b")
