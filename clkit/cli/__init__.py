"""The command line: one small file per verb. A verb parses, calls and prints; the work is done elsewhere.

Here are the arguments that several verbs share.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clkit.run.folder import RunFolder

RecipeName = Annotated[str, typer.Argument(help="A recipe's path or the name of a shipped one (`clkit ls recipes`).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: training.learning_rate=1e-4"),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes", help="Go on although the data or the starting model are not those that the run read."
    ),
]


def refuse_contradictions(*, resume: bool, overwrite: bool, accept_changes: bool) -> None:
    """Refuse options of a verb that begins a run or goes on with one, where they exclude each other."""
    from clkit.errors import UsageError

    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: go on with the run, or replace it")
    if accept_changes and not resume:
        raise UsageError("--accept-changes is for --resume: a new run reads what is there")


def opened(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs at these paths, with a warning about each in a folder of runs that cannot be opened."""
    from clkit.run.comparison import open_runs

    found, remarks = open_runs(paths)
    for remark in remarks:
        typer.echo(f"warning: {remark}", err=True)
    return found


class TableForm(StrEnum):
    """Of a table that goes into a paper or a page."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"


AsTable = Annotated[
    TableForm | None,
    typer.Option("--table", help="Print one table for a paper instead; latex uses booktabs.", show_default=False),
]
Runs = Annotated[
    list[Path] | None,
    typer.Argument(help="Run folders, or folders of them; without any, the newest in runs/.", show_default=False),
]
References = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference", help="Compare with a baseline's run: per_task gives intransigence, multi_task the upper bound."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(help="Score by this metric instead of the run's own: macro_f1, loss, ...", show_default=False),
]
NewestRun = Annotated[
    Path | None, typer.Argument(help="Run folder; without it, the newest in runs/.", show_default=False)
]
