"""Single answers of a run in the terminal: what was asked, what is right, what was said when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from clkit.errors import RunError, UsageError, printable
from clkit.run.filled import read_filled
from clkit.run.folder import RunFolder, Stage
from clkit.run.layout import PREDICTIONS
from clkit.wording import between, did_you_mean


@dataclass
class Example:
    """A test example with what was answered to it.

    Attributes:
        text: the input; of a conversation behind the turns before it.
        place: where it stands in the data; None where the run did not keep it.
        answers: one record per stage that it was tested in, then or later, by the stage's name, in their order.
    """

    task: str
    index: int
    gold: str | None
    text: str | None
    place: str | None
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def lost_in(self) -> str | None:
        """The stage after which it was wrong for good, though right when its task was learned; None for all others."""
        stages = list(self.answers)
        right = [name for name in stages if self.answers[name]["correct"]]
        if self.task not in right or right[-1] == stages[-1]:
            return None
        return stages[stages.index(right[-1]) + 1]

    def to_json(self, stage: str) -> dict[str, Any]:
        """Its answer in a stage, and whether it was right in each stage so far."""
        history = {name: answer["correct"] for name, answer in self.answers.items()}
        return {**self.answers[stage], "stage": stage, "history": history}


def read_examples(run: RunFolder, task: str | None = None) -> list[Example]:
    """Every example that was tested, in the order of tasks and data.

    Raises:
        RunError: a file is damaged, or nothing was answered: scores of likelihood have no right and wrong.
        UsageError: no test of that task was found.
    """
    found: dict[tuple[str, int], Example] = {}
    stages = run.stages()
    filled = read_filled(run.path, {stage.index: stage.payload for stage in stages})
    for stage in stages:
        later = filled[stage.index].records if stage.index in filled else []
        for record in (*_records(stage), *later):
            if "prediction" not in record:
                raise RunError(f"{run.path}: the run scores likelihoods, so no answer is right or wrong")
            key = record["task"], record["index"]
            example = found.setdefault(key, Example(*key, record["gold"], _asked(record), record.get("place")))
            first = next(iter(example.answers.values()), record)
            if all(first.get(one) == record.get(one) for one in _parts(first, record)):  # else the data were changed
                example.answers[stage.name] = record
    names = dict.fromkeys(name for name, _ in found)
    if task is not None and task not in names:
        raise UsageError(
            f"--task {task}: {run.path} has no test of it{did_you_mean(task, names)} (tested: {', '.join(names)})"
        )
    return [
        example
        for key, example in sorted(found.items(), key=lambda pair: _order(pair[0], list(names)))
        if task in (None, key[0])
    ]


def _parts(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two records of one example must agree in; an earlier clkit did not keep the turns before an input."""
    return ["gold", "text", *(["turns"] if "turns" in one and "turns" in other else [])]


def _asked(record: Mapping[str, Any]) -> str | None:
    """The input of a record, behind what was said before; None where it is not kept."""
    if record.get("text") is None:
        return None
    return "".join(f"{turn['role']}: {turn['content']}\n" for turn in record.get("turns") or ()) + str(record["text"])


def _order(key: tuple[str, int], names: list[str]) -> tuple[int, int]:
    return names.index(key[0]), key[1]


def _records(stage: Stage) -> list[dict[str, Any]]:
    path = stage.folder / PREDICTIONS
    if not path.is_file() or not path.stat().st_size:
        return []
    # Not `splitlines`, which parts a text where it has a line separator of Unicode's.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    try:
        records = json.loads(f"[{','.join(lines)}]")  # all at once, which takes half the time
    except ValueError:
        records = []
    if len(records) == len(lines) and all(map(_is_record, records)):
        return list(records)
    return [_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _is_record(value: Any) -> bool:
    # Without a set of keys: there may be a million of them.
    if not isinstance(value, dict) or "task" not in value or "index" not in value:
        return False
    return "prediction" not in value or ("gold" in value and "correct" in value)


def _record(line: str, where: str) -> dict[str, Any]:
    with suppress(ValueError):
        record = json.loads(line)
        if _is_record(record):
            return dict(record)
    raise RunError(f"{where}: no record of a prediction; see `clkit doctor`")


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
        raise UsageError(f"--stage {stage}: {run.path} has stages {between(stages)}")
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
        said, now = f"right is {_quoted(example.gold)}", _quoted(answer["prediction"])
        if example.lost_in:
            said += f"; said {_quoted(example.answers[example.task]['prediction'])} when learned, now {now}"
        elif answer["correct"]:
            said += ", as was said"
        else:
            said += f"; said {now}"
        console.print(f"  {printable(said)}", soft_wrap=True)
    more = len(examples) - len(shown)
    console.print(f"{len(examples):,} in all" + (f", {more:,} not shown (--limit 0 shows all)" if more else ""))


def _quoted(text: str | None) -> str:
    return "what was taken out (clkit forget-data)" if text is None else f"'{text}'"


def prediction_line(record: Mapping[str, Any]) -> str:
    """An answer of `clkit predict` for a person, the labels' probabilities behind it, the largest first."""
    scores = sorted(record.get("scores", {}).items(), key=lambda pair: -pair[1])
    parts = [record["prediction"], *(f"{label} {share:.1%}" for label, share in scores)]
    return printable("  ".join(parts))
