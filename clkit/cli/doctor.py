"""`clkit doctor`: whether a run is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from clkit.cli import NewestRun


def doctor(
    run: NewestRun = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON.")] = False,
) -> None:
    """Check every file of a run, and whether data and model are still what it read.

    Exits with 0 if the run is finished and whole, otherwise with 1. It changes nothing.

    Example: clkit doctor runs/quickstart-42
    """
    import json

    from clkit.engine.fingerprints import examine_read
    from clkit.engine.resuming import examine_kept
    from clkit.report.console import make_console, quiet_libraries, stderr
    from clkit.run.doctor import advice, examine, is_whole, verdict
    from clkit.run.folder import RunFolder

    quiet_libraries()
    path = run if run is not None else RunFolder.newest_path()
    folder = RunFolder(path)
    with stderr().status(f"reading {path}"):  # shown on a terminal only
        checked = [*examine(path), *examine_kept(folder), *examine_read(folder)]
    whole = is_whole(checked)
    if as_json:
        document = {"run": str(path), "whole": whole, "checked": [found._asdict() for found in checked]}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        from clkit.report.tables import checked_table

        console = make_console()
        console.print(str(path), style="bold", soft_wrap=True)
        console.print(checked_table(checked))
        for line in [verdict(checked)] if whole else advice(path, checked):
            console.print(line, soft_wrap=True)
    if not whole:
        raise typer.Exit(1)
