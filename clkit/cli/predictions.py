"""`clkit predictions`: what a run answered, and what it has forgotten."""

from __future__ import annotations

from typing import Annotated

import typer

from clkit.cli import NewestRun


def predictions(
    run: NewestRun = None,
    task: Annotated[str | None, typer.Option(help="Of this task only.", show_default=False)] = None,
    stage: Annotated[
        int | None, typer.Option(help="As it answered after this many tasks (0: before any); the last.", min=0)
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what was answered wrongly.")] = False,
    forgotten: Annotated[
        bool, typer.Option("--forgotten", help="Only what was right when its task was learned, in the order of loss.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Show so many at most; 0 shows all.", min=0)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of them, one JSON object per line.")] = False,
) -> None:
    """Show what a run answered: the text, its place in the data, the right answer and those that were given.

    Example: clkit predictions runs/quickstart-42 --forgotten
    """
    import json

    from clkit.report.answers import chosen, print_examples
    from clkit.report.console import make_console
    from clkit.run.folder import RunFolder

    opened = RunFolder.open(run) if run is not None else RunFolder.newest()
    name, examples = chosen(opened, task, stage, wrong=wrong, forgotten=forgotten)
    if as_json:
        for example in examples:
            typer.echo(json.dumps(example.to_json(name), ensure_ascii=False))
        return
    print_examples(make_console(), name, examples, limit)
