"""`clkit forget-data`: take the texts of a task's data out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clkit.engine.forgetting import Kept

WEIGHTS_STAY = "The weights stay as they are, with what they learned; a model without the data is trained anew."


def forget_data(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    task: Annotated[str, typer.Option(help="Whose texts are taken out.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
) -> None:
    """Take a task's texts out of what a run keeps for replay, and out of its predictions. Weights and scores stay.

    Example: clkit forget-data runs/tickets-42 --task queue
    """
    from clkit.engine.forgetting import forget_data as take_out
    from clkit.errors import UsageError
    from clkit.report.console import quiet_libraries
    from clkit.run.folder import RunFolder

    opened = RunFolder.open(run)
    quiet_libraries()

    def confirmed(kept: Kept) -> bool:
        if yes:
            return True
        try:
            return typer.confirm(f"{run} keeps of task '{task}': {kept}. {WEIGHTS_STAY}\nTake the texts out?", err=True)
        except typer.Abort:
            return False

    kept = take_out(opened, task, confirmed)
    if kept is None:
        raise UsageError("not confirmed, so nothing was changed (--yes does it without asking)")
    typer.echo(f"{run}: taken out of task '{task}': {kept}. {WEIGHTS_STAY}")
