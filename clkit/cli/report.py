"""`clkit report`: runs as a page that is looked at, kept and sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, or folders of them; without any, the newest in runs/.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it exists.")] = False,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Compare with a baseline's run: per_task gives intransigence, multi_task the upper bound."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Score by this metric instead of the run's own: macro_f1, loss, ...", show_default=False),
    ] = None,
) -> None:
    """Write one HTML file that shows what runs learned and forgot; it needs no network and nothing beside it.

    Example: clkit report runs/quickstart-42 --out quickstart.html
    """
    from clkit.report.page.report import Report
    from clkit.run.baselines import open_references
    from clkit.run.comparison import open_runs
    from clkit.run.folder import RunFolder
    from clkit.run.layout import check_target

    check_target(out, "--out", replace=force)
    opened = open_runs(runs) if runs else [RunFolder.newest()]
    references = open_references((RunFolder.open(path) for path in reference or []), metric)
    made = Report.of(opened, references=references, metric=metric)
    for remark in made.remarks:
        typer.echo(f"warning: {remark}", err=True)
    made.save(out, replace=force)
    typer.echo(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB)", err=True)
