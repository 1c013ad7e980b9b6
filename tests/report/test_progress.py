"""Progress in a terminal and in a pipe; and the plan as it is printed: compact, whatever its width and size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from clkit.events import Plan
from clkit.report.plan import print_plan
from clkit.report.progress import LiveProgress, PlainProgress, duration, evaluation_progress, progress

PLAN = Plan(
    name="toy",
    protocol="sequential",
    metric="exact_match",
    tasks=["first", "second"],
    steps={"first": 4, "second": 6},
    examples=[(32, 8), (48, 8)],
    dropped=[{}, {"test": 131}],
    model={"family": "seq2seq", "parameters": 200, "trainable": 50, "remarks": []},
    memory={"ewc": 1_600_000},
)


def play(console: Console) -> None:
    listener = progress(console)
    listener.started(PLAN)
    listener.evaluating("first", 8)
    listener.answered(8)
    listener.evaluated("zero-shot", {"first": 0.0, "second": None}, 3.0)
    listener.task_started("first", 0, 4)
    for step in range(1, 5):
        listener.stepped(step)
        listener.logged(
            {"step": step, "task_loss": 0.5, "learning_rate": 1.0, "grad_norm": 1.0, "migu_masked_share": 0.7}
        )
    listener.evaluated("first", {"first": 0.875, "second": None}, 65.0)
    listener.skipped("second")
    listener.finished()


def test_plain_lines_have_everything_and_no_escape_codes() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    assert isinstance(progress(console), PlainProgress)
    play(console)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0] == "toy: 2 tasks, seq2seq model, 200 parameters, 50 trained (25.0%); ewc keeps 1.6 MB"
    assert lines[1] == "zero-shot: first 0.0  (0:03)"
    assert lines[2] == "task 1 of 2, first: 4 steps"
    assert lines[3].startswith("first step 4/4  task_loss 0.5  migu_masked_share 0.7  ")
    assert lines[4] == "after first: first 87.5  (1:05)"
    assert lines[5] == "second: finished before"
    assert len(lines) == 6


def test_the_validation_loss_stands_beside_the_terms() -> None:
    out = io.StringIO()
    listener = PlainProgress(Console(file=out, width=120))
    listener.started(PLAN)
    listener.task_started("first", 0, 4)
    listener.validated(2, 0.25, 2)
    listener.validated(4, 0.5, 2)
    listener.stepped(4)
    listener.logged({"step": 4, "task_loss": 0.125})
    said = out.getvalue().splitlines()[-1]
    assert said.startswith("first step 4/4  task_loss 0.125  validation_loss 0.5 (lowest at step 2)")
    listener.task_started("second", 1, 6)
    assert listener.validation is None


def test_the_live_display_keeps_the_rows_and_gives_the_terminal_back() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, highlight=False)
    assert isinstance(progress(console), LiveProgress)
    play(console)
    printed = out.getvalue()
    assert "after first: first 87.5" in printed
    assert "steps/s" in printed
    assert "migu_masked_share 0.7" in printed
    assert printed.count("\x1b[?25h") == printed.count("\x1b[?25l") == 1  # the cursor is hidden, and shown again


@pytest.mark.parametrize("terminal", [False, True])
def test_all_tasks_learned_together_are_one_training(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, highlight=False, color_system=None)
    listener = progress(console)
    listener.started(replace(PLAN, protocol="multi_task", steps={"all-tasks": 10}, memory={}))
    listener.task_started("all-tasks", 0, 10)
    for step in range(1, 11):
        listener.stepped(step)
        listener.logged({"step": step, "task_loss": 0.5})
    listener.evaluated("all-tasks", {"first": 0.875, "second": 0.5}, 65.0)
    listener.finished()
    printed = out.getvalue()
    assert "toy: 2 tasks learned together, seq2seq model, 200 parameters, 50 trained (25.0%)\n" in printed
    assert "task 1 of" not in printed
    assert "10/10" in printed
    assert "0:00 left" in printed
    assert "after all-tasks: first 87.5  second 50.0  (1:05)" in printed
    if not terminal:
        assert "\nall-tasks: 10 steps\n" in printed


@pytest.mark.parametrize("terminal", [False, True])
def test_scores_that_are_no_fractions(terminal: bool) -> None:
    out = io.StringIO()
    listener = progress(Console(file=out, width=100, force_terminal=terminal, highlight=False, color_system=None))
    listener.started(replace(PLAN, metric="perplexity"))
    listener.evaluated("zero-shot", {"first": 12345.678, "second": 7.125}, 3.0)
    listener.finished()
    assert "zero-shot, perplexity (lower is better): first 12345.7  second 7.12  (0:03)\n" in out.getvalue()


def test_tasks_learned_alone_are_counted() -> None:
    out = io.StringIO()
    listener = progress(Console(file=out, width=100))
    listener.started(replace(PLAN, protocol="per_task"))
    listener.task_started("second", 1, 6)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("toy: 2 tasks, each learned alone, seq2seq model")
    assert lines[-1] == "task 2 of 2, second: 6 steps"


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, [["first", "32", "8", "4", "–"], ["second", "48", "8", "6", "131", "test"]]),
        (
            {"protocol": "multi_task", "steps": {"all-tasks": 10}},
            [
                ["first", "32", "8", "–", "–"],
                ["second", "48", "8", "–", "131", "test"],
                ["all-tasks", "80", "16", "10", "–"],
            ],
        ),
        (
            {"protocol": "zero_shot", "steps": {}},
            [["first", "32", "8", "–", "–"], ["second", "48", "8", "–", "131", "test"]],
        ),
        (
            {"finished": ["first"], "examples": [(None, 8), (48, 8)], "labels": [{"yes": None, "no": None}, {"a": 48}]},
            [["first", "gone", "8", "finished", "–"], ["second", "48", "8", "6", "131", "test"]],
        ),
    ],
    ids=["sequential", "multi_task", "zero_shot", "gone"],
)
def test_a_plan_before_the_run(changes: dict[str, object], rows: list[list[str]]) -> None:
    out = io.StringIO()
    print_plan(Console(file=out, width=100), replace(PLAN, **changes))
    first, _, *table = out.getvalue().splitlines()
    assert [line.split() for line in table[: len(rows)]] == rows
    assert ("trained" in first) == bool(replace(PLAN, **changes).steps)


def test_testing_shows_nothing_in_a_pipe() -> None:
    out = io.StringIO()
    with evaluation_progress(Console(file=out)) as listener:
        listener.evaluating("first", 8)
        listener.answered(8)
    assert out.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


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


def test_labels_whose_examples_are_gone_are_not_counted() -> None:
    few, many = ({f"label {number}": None for number in range(count)} for count in (2, 20))
    lines = printed(replace(plan([1, 1], LONG), labels=[few, many]), 60)
    told = [line.split("labels", 1)[1].strip() for line in lines if line.startswith("  labels")]
    assert told[0] == "label 0, label 1"
    assert told[1].startswith("20: label 0, label 1, ")


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
