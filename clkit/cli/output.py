"""Where a verb's output goes: data to stdout, remarks to stderr; libraries are kept quiet."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """The console for data."""
    from clkit.report.tables import make_console

    return make_console(sys.stdout)


def stderr() -> Console:
    """The console for progress and remarks."""
    from clkit.report.tables import make_console

    return make_console(sys.stderr)


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
