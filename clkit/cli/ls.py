"""`clkit ls`: what comes with clkit."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

Kind = Literal["recipes", "suites", "strategies", "benchmarks", "models"]


def ls(
    kind: Annotated[Kind | None, typer.Argument(help="One kind only.", show_default="all of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print names and descriptions as JSON, by kind.")] = False,
) -> None:
    """List recipes, suites, strategies, benchmarks and models, each with what it is.

    Without a terminal each line holds the name, a tab, and the description.

    Example: clkit ls recipes
    """
    from clkit.recipe.shipped import KINDS

    listed = {one: KINDS[one]() for one in ([kind] if kind else KINDS)}
    if as_json:
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    elif _on_terminal():
        _print_table(listed)
    else:
        for one, descriptions in listed.items():
            for name, description in descriptions.items():
                # A kind in front where there are several, so that each line says all without the others.
                typer.echo("\t".join([name, description] if kind else [one, name, description]))


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _print_table(listed: dict[str, dict[str, str]]) -> None:
    from rich.table import Table

    from clkit.report.console import make_console

    for one, descriptions in listed.items():
        table = Table(title=one, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 2))
        for name, description in descriptions.items():
            table.add_row(name, description)
        make_console().print(table)
