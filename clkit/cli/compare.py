"""`clkit compare`: whether methods differ, over the seeds and orders that their runs share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from clkit.cli import AsTable, Metric, opened

if TYPE_CHECKING:
    from clkit.report.pairs import Compared
    from clkit.run.folder import RunFolder


class Command(TyperCommand):
    """Lets `--against` take all paths that follow it, as a shell writes them for `--against runs/plain-*`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        many = False
        for argument in args:
            if argument.startswith("-"):
                many = argument.partition("=")[0] == "--against"
            elif many and spread[-1] != "--against":
                spread.append("--against")
            spread.append(argument)
        return super().parse_args(ctx, spread)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs of the methods, or folders of runs.")],
    against: Annotated[
        list[Path], typer.Option(help="Runs of the method that they are compared with, or folders of them.")
    ],
    metric: Metric = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print pairs, differences and tests as JSON.")] = False,
    as_table: AsTable = None,
) -> None:
    """Compare methods over pairs of runs: difference, 95 % interval, sign-flip test, and Holm's correction of it.

    A pair has the same seed, data.seed and order of tasks. Runs of other data or another protocol are refused.

    Example: clkit compare runs/migu-* --against runs/plain-*
    """
    import json

    from clkit.errors import UsageError
    from clkit.report.comparison_tables import comparison_tables
    from clkit.report.console import make_console
    from clkit.report.pairs import compare as compare_methods
    from clkit.report.pairs import methods
    from clkit.report.sheets import comparison_sheet, rendered
    from clkit.run.comparison import differing_keys

    if as_json and as_table:
        raise UsageError("--json and --table exclude each other")
    others = opened(against)
    theirs = methods(_compared(others, metric))
    left = {run.path.resolve() for run in others}
    ours = methods(_compared((run for run in opened(runs) if run.path.resolve() not in left), metric))
    if not ours or not theirs:
        raise UsageError("no finished run to compare: all are in progress, or stand on the side of --against")
    if len(theirs) > 1:
        first, second = theirs[:2]
        raise UsageError(
            f"--against takes the runs of one method, and {first.names[0]} and {second.names[0]} differ in "
            f"{', '.join(differing_keys(first.recipe, second.recipe))}"
        )
    compared = compare_methods(ours, theirs[0])
    if as_json:
        found = {"metric": compared[0].scored_by, "comparisons": [one.to_json() for one in compared]}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if as_table:
        for one in compared:
            if one.alone:
                typer.echo(f"note: {one.method}: without a partner: {', '.join(one.alone)}", err=True)
        typer.echo(rendered(comparison_sheet(compared), as_table), nl=False)
        return
    console = make_console()
    for table in comparison_tables(compared):
        console.print(table)


def _compared(runs: Iterable[RunFolder], metric: str | None) -> list[Compared]:
    """The finished runs; a remark about each other one."""
    from clkit.report.general_tables import read_general
    from clkit.report.pairs import Compared

    found = []
    for run in runs:
        matrix, damage, _ = run.scores(metric)
        if matrix.in_progress or damage:
            typer.echo(f"warning: {run.path} is left out: {matrix.in_progress or damage[0]}", err=True)
        else:
            general = read_general(run, matrix.protocol)
            found.append(Compared(str(run.path), run.recipe(), matrix, general.final if general else {}, run.read()))
    return found
