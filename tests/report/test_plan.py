"""The plan as it is printed: whatever the width, the number of tasks and of labels, it stays compact and within it."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from clkit.events import Plan
from clkit.report.progress import print_plan


def plan(labels: Sequence[int], sample: tuple[str, str]) -> Plan:
    """A plan of as many tasks as there are numbers of labels."""
    tasks = [f"task-{index}" for index in range(len(labels))]
    return Plan(
        name="x",
        protocol="sequential",
        metric="exact_match",
        tasks=tasks,
        steps=dict.fromkeys(tasks, 3),
        examples=[(24, 24)] * len(tasks),
        dropped=[{}] * len(tasks),
        model={"family": "seq2seq", "parameters": 1000, "trainable": 1000, "remarks": []},
        memory={},
        labels=[{f"label number {label}": label for label in range(count)} for count in labels],
        samples=[sample] * len(tasks),
    )


def printed(shown: Plan, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width)
    print_plan(console, shown)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


LONG = ("What is it?\n" + "a word and another " * 50 + "\nAnswer:", "yes")


@pytest.mark.parametrize("width", [80, 100, 30])
@pytest.mark.parametrize("labels", [[2], [77, 2, 0], [3] * 15], ids=["one", "77 labels", "15 tasks"])
@pytest.mark.parametrize("sample", [LONG, ("語" * 300, "語"), ("\x1b[31m[bold]x[/]\r\u2028", "a\tb"), ("", "x" * 300)])
def test_lines_fit(width: int, labels: list[int], sample: tuple[str, str]) -> None:
    lines = printed(plan(labels, sample), width)
    assert all(cell_len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)
    most = 4 if len(labels) > 5 else 10  # a blank line, the name, and one or up to three lines each of the rest
    assert len(lines) <= len(labels) * (most + 2) + 5


def test_a_prompt_keeps_beginning_and_end_and_shows_its_line_ends() -> None:
    lines = printed(plan([2], LONG), 80)
    shown = "".join(line[10:] for line in lines[lines.index("task-0") + 2 : -1])
    assert shown.startswith("What is it?↵a word and")
    assert " … " in shown
    assert shown.endswith("another ↵Answer:")
    assert "  labels  label number 0 0, label number 1 1" in lines
    assert lines[-1] == "  answer  yes"


def test_many_labels_say_how_many_and_how_they_are_spread() -> None:
    (line,) = [line for line in printed(plan([77] + [2] * 6, LONG), 80) if "77," in line]
    assert line.startswith("  labels  77, 0 to 76 each: label number 0  … ")
    assert line.endswith(", label number 76 76")


def test_a_text_for_pretraining_has_no_prompt() -> None:
    lines = printed(plan([0], ("", "once upon")), 80)
    assert lines[lines.index("task-0") + 1 :] == ["  text    once upon"]
