"""`clkit watch`: look at runs while other processes train them."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from clkit.cli import Runs


def watch(
    runs: Runs = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print every event as a line of JSON, from the run's beginning.")
    ] = False,
) -> None:
    """Show how far runs are that go on, until they end or Ctrl-C, which ends the watching alone.

    One run is shown as `clkit train` shows it; of several, as of a sweep, each has a row.

    Example: clkit watch runs
    """
    from clkit.report.console import make_console
    from clkit.report.watching import Watch, watch_in, watch_lines
    from clkit.run.folder import RunFolder

    watched = Watch(runs or [RunFolder.newest_path()])
    with suppress(KeyboardInterrupt):
        if json_lines:
            watch_lines(watched, lambda line: print(line, end="", flush=True))
        else:
            watch_in(make_console(), watched)
        sys.stdout.flush()
