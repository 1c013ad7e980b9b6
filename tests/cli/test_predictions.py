"""`clkit predictions`: what was answered, what was wrong, and what was forgotten in which stage."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clkit.cli.predictions import predictions
from clkit.errors import RunError, UsageError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_jsonl
from clkit.run.folder import RunFolder
from tests.cli.verbs import call

TEXTS = {"a": ["good morning", "good night", "good day"], "b": ["one", "two"], "c": ["red"]}
GOLD = {"a": ["x", "y", "x"], "b": ["1", "2"], "c": ["r"]}
#: What was answered after each task: of a, the first is lost in c, the second in b, the third is lost and comes back.
SAID: Mapping[str, Mapping[str, list[str]]] = {
    "a": {"a": ["x", "y", "x"]},
    "b": {"a": ["x", "1", "2"], "b": ["1", "1"]},
    "c": {"a": ["r", "r", "x"], "b": ["1", "r"], "c": ["r"]},
}


def make_run(path: Path, said: Mapping[str, Mapping[str, list[str]]] = SAID) -> RunFolder:
    run = RunFolder.create(path, "name: x\nseed: 1\n", {})
    matrix = AccuracyMatrix(tasks=list(TEXTS), counts=[3, 2, 1])
    for number, (stage, answers) in enumerate(said.items(), 1):
        folder = run.start_stage(number, stage)
        records: list[dict[str, Any]] = [
            {
                "task": task,
                "index": index,
                "place": f"{task}.csv:{index + 2}",
                "text": TEXTS[task][index],
                "gold": GOLD[task][index],
                "prediction": answer,
                "correct": answer == GOLD[task][index],
            }
            for task, given in answers.items()
            for index, answer in enumerate(given)
        ]
        write_jsonl(folder / "predictions.jsonl", records)
        run.finish_stage(number, stage, {"row": [None] * 3, "matrix": matrix.header()})
    return run


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return make_run(Path("runs/x-1"))


def listed(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(predictions, *arguments, "--json").stdout.splitlines()]


def places(*arguments: str) -> list[str]:
    return [record["place"] for record in listed(*arguments)]


def test_all_answers_of_the_last_stage_in_the_order_of_the_data() -> None:
    assert places() == ["a.csv:2", "a.csv:3", "a.csv:4", "b.csv:2", "b.csv:3", "c.csv:2"]
    assert listed()[1] == {
        "task": "a",
        "index": 1,
        "place": "a.csv:3",
        "text": "good night",
        "gold": "y",
        "prediction": "r",
        "correct": False,
        "stage": "c",
        "history": {"a": True, "b": False, "c": False},
    }


def test_one_task_one_stage_wrong_ones() -> None:
    assert places("--task", "b") == ["b.csv:2", "b.csv:3"]
    assert places("--stage", "1") == ["a.csv:2", "a.csv:3", "a.csv:4"]
    assert places("--wrong") == ["a.csv:2", "a.csv:3", "b.csv:3"]


def test_forgotten_are_those_learned_and_lost_for_good_in_the_order_of_loss() -> None:
    """The second of b was never right, the third of a is right again."""
    assert places("--forgotten") == ["a.csv:3", "a.csv:2"]


def test_a_person_reads_text_place_and_answers() -> None:
    shown = call(predictions, "--forgotten").stdout
    assert shown == (
        "a  a.csv:3  lost in b\n"
        "  good night\n"
        "  right is 'y'; said 'y' when learned, now 'r'\n"
        "a  a.csv:2  lost in c\n"
        "  good morning\n"
        "  right is 'x'; said 'x' when learned, now 'r'\n"
        "2 in all\n"
    )
    assert "5 not shown" in call(predictions, "--limit", "1").stdout


def test_control_characters_of_the_data_never_reach_the_terminal(tmp_path: Path) -> None:
    made = make_run(tmp_path / "bad", {"c": {"c": ["\x1b[31mred"]}})
    assert "\x1b" not in call(predictions, str(made.path)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "aa"), "--task aa: .* has no test of it, did you mean 'a'"),
        (("--stage", "4"), "--stage 4: .* has stages 1 to 3"),
        (("--stage", "1", "--forgotten"), "leave out --stage"),
    ],
)
def test_what_the_run_does_not_have(arguments: tuple[str, ...], message: str) -> None:
    failed = call(predictions, *arguments).exception
    assert isinstance(failed, UsageError)
    assert re.search(message, str(failed))


def test_likelihoods_and_damage_are_said(run: RunFolder) -> None:
    file = run.stages()[0].folder / "predictions.jsonl"
    file.write_text('{"task": "a", "index": 0, "nll": 2.0, "tokens": 3}\n')
    assert "likelihoods" in str(call(predictions).exception)
    file.write_text("null\n")
    failed = call(predictions).exception
    assert isinstance(failed, RunError)
    assert "predictions.jsonl:1: no record" in str(failed)
