"""`clkit sweep`: many runs of recipes, as a suite lists them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clkit.suites.planning import PlannedRun, PlannedSuite


def sweep(
    suite: Annotated[str, typer.Argument(help="A suite's path or the name of a shipped one (`clkit ls suites`).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the suite: seeds=[1,2] set.training.epochs=2"),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: runs/NAME]")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="METHOD", help="A method of the suite, not all.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs side by side.  [default: one per GPU, or else per core]"),
    ] = None,
    engine: Annotated[str, typer.Option(help="What carries out runs: processes, ray, submitit.")] = "processes",
    options: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="An option of the engine: threads=1")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs and how long they may take.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Each method once, in miniature.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """Train what a suite lists, each run in a process of its own; the same command goes on where one was stopped.

    A finished run is not begun again, and one that fails stops no other: it is named at the end, with its log, and the
    exit code is 1. The folder is for `clkit matrix` and `clkit compare`.

    Example: clkit sweep quickstart_table seeds=[1,2,3] --jobs 2
    """
    from clkit.errors import ClkitError, RecipeError
    from clkit.report.console import make_console, stderr
    from clkit.report.sweeps import SweepProgress, print_dry_run, sweep_table
    from clkit.suites.engine import make_engine
    from clkit.suites.planning import PlannedSuite
    from clkit.suites.state import refuse_others, state_of
    from clkit.suites.sweep import known_rates
    from clkit.suites.sweep import sweep as carry_out

    planned = PlannedSuite.load(suite, overrides or [], smoke=smoke, only=only or [])
    if missing := planned.missing_inputs():
        raise RecipeError(*missing)
    made = make_engine(engine, jobs, options or [])
    folder = runs or Path("runs", planned.name)
    if dry_run:
        listed = [*planned.validation_runs(), *planned.runs(known_rates(planned, folder))]
        refuse_others(folder, listed)
        if as_json:
            _print_json(planned, folder, listed)
        else:
            later = len(planned.validation_runs()) + planned.number_of_runs - len(listed)
            print_dry_run(make_console(), listed, later, folder, made.side_by_side(len(listed) + later))
        return
    swept = carry_out(planned, folder, made, SweepProgress(stderr(), folder))
    if as_json:
        _print_json(planned, folder, swept.runs)
    else:
        states = {run.place: state_of(folder / run.place) for run in swept.runs}
        make_console().print(sweep_table(swept.runs, states, [one.run.method for one in swept.failed]))
    if swept.failed:
        named = "; ".join(f"{one.run.place} ({one.reason}; log: {one.log})" for one in swept.failed)
        raise ClkitError(f"{len(swept.failed)} of the runs failed: {named}")


def _print_json(planned: PlannedSuite, folder: Path, runs: Sequence[PlannedRun]) -> None:
    from clkit.suites.state import state_of

    listed = [
        {
            "run": str(folder / run.place),
            "method": run.method,
            "rate": run.rate,
            "seed": run.recipe.seed,
            "state": state_of(folder / run.place).state,
            "command": shlex.join(["clkit", *run.command(folder)]),
        }
        for run in runs
    ]
    typer.echo(json.dumps({"suite": planned.name, "folder": str(folder), "runs": listed}, indent=2, ensure_ascii=False))
