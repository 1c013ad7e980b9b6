"""Single answers of a run in the terminal: what was asked, what is right, what was said when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from clkit.errors import UsageError, printable
from clkit.run.folder import RunFolder
from clkit.run.predictions import Example, read_examples


def chosen(
    run: RunFolder, task: str | None, stage: int | None, *, wrong: bool, forgotten: bool
) -> tuple[str, list[Example]]:
    """The stage that is asked for, by its name, and the examples that it answered and that are to be shown.

    Args:
        stage: 0 for the test before any training; None for the last one.

    Raises:
        UsageError: the run has no such stage or task.
    """
    examples = read_examples(run, task)
    stages = {one.index: one.name for one in run.stages()}
    if stage is None:
        stage = max(stages)
    if stage not in stages:
        raise UsageError(f"--stage {stage}: {run.path} has stages {min(stages)} to {max(stages)}")
    if forgotten and stage != max(stages):
        raise UsageError("--forgotten is about the last stage; leave out --stage")
    name = stages[stage]
    examples = [one for one in examples if name in one.answers]
    if wrong:
        examples = [one for one in examples if not one.answers[name]["correct"]]
    if forgotten:
        order = list(stages.values())
        lost = [(order.index(one.lost_in), place, one) for place, one in enumerate(examples) if one.lost_in]
        examples = [one for _, _, one in sorted(lost, key=lambda found: found[:2])]
    return name, examples


def print_examples(console: Console, stage: str, examples: Sequence[Example], limit: int) -> None:
    """A few lines for each: its place, its text, the answers."""
    shown = examples[: limit or None]
    for example in shown:
        answer = example.answers[stage]
        head = Text(example.task, style="bold").append(f"  {example.place or f'example {example.index}'}", style="dim")
        if example.lost_in:
            head.append(f"  lost in {example.lost_in}", style="yellow")
        console.print(head, soft_wrap=True)
        if example.text:
            line = Text("  " + printable(" ".join(example.text.split())))
            line.truncate(console.width, overflow="ellipsis")
            console.print(line)
        said = f"right is '{example.gold}'"
        if example.lost_in:
            said += f"; said '{example.answers[example.task]['prediction']}' when learned, now '{answer['prediction']}'"
        elif answer["correct"]:
            said += ", as was said"
        else:
            said += f"; said '{answer['prediction']}'"
        console.print(f"  {printable(said)}", soft_wrap=True)
    more = len(examples) - len(shown)
    console.print(f"{len(examples):,} in all" + (f", {more:,} not shown (--limit 0 shows all)" if more else ""))


def prediction_line(record: Mapping[str, Any]) -> str:
    """An answer of `clkit predict` for a person, the labels' probabilities behind it, the largest first."""
    scores = sorted(record.get("scores", {}).items(), key=lambda pair: -pair[1])
    parts = [record["prediction"], *(f"{label} {share:.1%}" for label, share in scores)]
    return printable("  ".join(parts))
