"""Calls one verb the way `clkit` calls it, without the other verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner, Result


def call(verb: Callable[..., Any], *arguments: str) -> Result:
    """The result of the verb; an error of clkit's own is in ``exception``, since `clkit.cli.app` catches those."""
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, arguments)
