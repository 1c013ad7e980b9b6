"""`clkit predict`: ask a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clkit.cli import AcceptChanges


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to answer; `-` reads standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Answer each record of this file: JSON, CSV or Parquet with `text`, `messages` or the columns of the "
            "task's data; else each line is a text.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Ask as in this task: its instruction, its labels. Without it, only the text is given."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Task name or number, or `zero-shot`.  [default: last]")] = None,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Tell how probable each label is, beside the answer (evaluation.answer)."),
    ] = False,
    accept_changes: AcceptChanges = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per input.")] = False,
) -> None:
    """Answer texts with the model of a run, asked just as the run's test asks. One answer per line, in their order.

    Example: clkit predict runs/quickstart-42 --task reviews "The room was clean and quiet."
    """
    import json

    from clkit.errors import UsageError
    from clkit.report.answers import prediction_line
    from clkit.report.console import quiet_libraries, stderr
    from clkit.run.folder import RunFolder
    from clkit.tasks.inputs import STDIN

    if (file is None) == (not texts):
        raise UsageError("give either texts, - for standard input, or --file")
    wanted = file or (STDIN if texts == [str(STDIN)] else texts or [])
    folder = RunFolder.open(run)
    quiet_libraries()
    from clkit.engine.predict import predict as answer
    from clkit.report.progress import evaluation_progress

    with evaluation_progress(stderr()) as listener:
        found = answer(
            folder, wanted, task=task, stage=stage, scores=scores, accept_changes=accept_changes, listener=listener
        )
    for record in found:
        typer.echo(json.dumps(record, ensure_ascii=False) if as_json else prediction_line(record))
