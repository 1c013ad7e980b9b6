"""`clkit report`: runs as a page that is looked at, kept and sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clkit.cli import Metric, References, Runs, opened


def report(
    runs: Runs = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it exists.")] = False,
    reference: References = None,
    metric: Metric = None,
) -> None:
    """Write one HTML file that shows what runs learned and forgot; it needs no network and nothing beside it.

    Example: clkit report runs/quickstart-42 --out quickstart.html
    """
    from clkit.report.page.report import Report
    from clkit.run.baselines import open_references
    from clkit.run.folder import RunFolder
    from clkit.run.layout import check_target

    check_target(out, "--out", replace=force)
    folders = opened(runs) if runs else [RunFolder.newest()]
    references = open_references((RunFolder.open(path) for path in reference or []), metric)
    made = Report.of(folders, references=references, metric=metric)
    for remark in made.remarks:
        typer.echo(f"warning: {remark}", err=True)
    made.save(out, replace=force)
    typer.echo(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB)", err=True)
