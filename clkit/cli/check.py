"""`clkit check`: whether a run keeps rules, for a build that must not pass when it forgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clkit.results.gate import Ruling

GATE_FAILED = 3


def check(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="A run, or several that differ in their seed; the newest in runs/.", show_default=False),
    ] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(help="Forgetting at most this: points of percent, or the loss's unit.")
    ] = None,
    min_average: Annotated[float | None, typer.Option(help="Average accuracy at least this, in percent.")] = None,
    max_general_loss: Annotated[
        float | None, typer.Option(help="Held-out loss (`general.held_out`) risen by at most this: nats per token.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Average accuracy and forgetting no worse than those of this run.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave no room for chance.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rulings as JSON.")] = False,
) -> None:
    """Check a run against rules, one line each; exit with 3 where one is broken by more than chance explains.

    Chance is the binomial error of the scores of one run, and the spread over the seeds of several.

    Example: clkit check runs/quickstart-42 --max-forgetting 5 --min-average 70
    """
    import json

    from clkit.report.gates import rulings, shown
    from clkit.run.folder import RunFolder

    opened = [RunFolder.open(run) for run in runs] if runs else [RunFolder.newest()]
    found: list[Ruling] = rulings(
        opened,
        max_forgetting=max_forgetting,
        min_average=min_average,
        max_general_loss=max_general_loss,
        against=RunFolder.open(against) if against is not None else None,
        strict=strict,
    )
    if as_json:
        typer.echo(json.dumps([ruling.to_json() for ruling in found], indent=2, ensure_ascii=False))
    else:
        for ruling in found:
            typer.echo(shown(ruling, fraction=opened[0].scores().matrix.is_fraction))
    if not all(ruling.passed for ruling in found):
        raise typer.Exit(GATE_FAILED)
