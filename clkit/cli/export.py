"""`clkit export`: the model of a run as a folder that needs no clkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clkit.cli import AcceptChanges


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder to write.")],
    stage: Annotated[str | None, typer.Option(help="Task name or number.  [default: last]")] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write one LoRA adapter, rather than the weights merged.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(help="With objective.heads: per_task, the task whose head is exported.")
    ] = None,
    accept_changes: AcceptChanges = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    push: Annotated[
        str | None, typer.Option(metavar="NAME", help="Upload the folder to the hub under this name, as private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push, let everyone see it.")] = False,
) -> None:
    """Write the model for transformers, peft and what reads their layout, with tokenizer, settings and model card.

    Example: clkit export runs/quickstart-42 my-model
    """
    from clkit.errors import UsageError
    from clkit.report.console import quiet_libraries, stderr
    from clkit.run.folder import RunFolder

    if public and push is None:
        raise UsageError("--public: it goes with --push NAME")
    quiet_libraries()
    from clkit.engine.exporting import export as write
    from clkit.report.card import model_card
    from clkit.report.progress import progress

    write(
        RunFolder.open(run),
        folder,
        model_card,
        stage=stage,
        task=task,
        adapter=adapter,
        replace=force,
        accept_changes=accept_changes,
        push=push,
        public=public,
        listener=progress(stderr()),
    )
    typer.echo(f"wrote {folder}{f' and uploaded it as {push}' if push else ''}", err=True)
