"""Calls one verb the way `clkit` calls it, without the other verbs; and the whole command, built once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from clkit.cli import app

#: What `clkit.cli.app.app` makes of itself, all verbs anew, whenever it is called.
COMMAND = get_command(app.app)


def call(verb: Callable[..., Any], *arguments: str) -> Result:
    """The result of the verb; an error of clkit's own is in ``exception``, since `clkit.cli.app` catches those."""
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, arguments)
