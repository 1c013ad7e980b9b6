"""Progress in a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from clkit.engine.events import Plan
from clkit.report.progress import LiveProgress, PlainProgress, duration, evaluation_progress, progress

PLAN = Plan(
    name="toy",
    tasks=["first", "second"],
    steps=[4, 6],
    examples=[(32, 8), (48, 8)],
    dropped=[{}, {"test": 131}],
    model={"family": "seq2seq", "parameters": 200, "trainable": 50},
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
    assert lines[1] == "second: dropped rows without a gold label: 131 test"
    assert lines[2] == "zero-shot: first 0.0  (0:03)"
    assert lines[3] == "task 1 of 2, first: 4 steps"
    assert lines[4].startswith("first step 4/4  task_loss 0.5  migu_masked_share 0.7  ")
    assert lines[5] == "after first: first 87.5  (1:05)"
    assert lines[6] == "second: finished before, not trained again"
    assert len(lines) == 7


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


def test_testing_shows_nothing_in_a_pipe() -> None:
    out = io.StringIO()
    with evaluation_progress(Console(file=out)) as listener:
        listener.evaluating("first", 8)
        listener.answered(8)
    assert out.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
