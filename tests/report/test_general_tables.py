"""General ability as a table and as JSON: what follows from what was measured, and how it fits into 80 columns."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from clkit.cli.matrix import matrix
from clkit.report.console import make_console
from clkit.report.general_tables import GeneralAbility, Measured, general_table, general_text, read_general
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_json
from clkit.run.folder import RunFolder
from clkit.run.layout import ZERO_SHOT

BEFORE = {"held_out_loss": 2.0, "hellaswag/acc": 0.4, "hellaswag/acc_norm": 0.5, "winogrande/acc": 0.6}
AFTER = {"held_out_loss": 2.5, "hellaswag/acc": 0.3, "hellaswag/acc_norm": 0.45, "winogrande/acc": 0.4}


def run_with(folder: Path, *measured: dict[str, Any] | None, seed: int = 1) -> RunFolder:
    run = RunFolder.create(folder, f"name: x\nseed: {seed}\n", {})
    matrix = AccuracyMatrix(["a", "b"], metric="exact_match", higher_is_better=True, counts=[1, 1])
    for index, (name, values) in enumerate(zip([ZERO_SHOT, "a", "b"], measured, strict=False)):
        row = None if index == 0 else [0.5, None] if index == 1 else [0.5, 0.5]
        run.start_stage(index, name)
        extra = {} if values is None else {"general": values}
        run.finish_stage(index, name, {"row": row, "matrix": matrix.header(), **extra})
    return run


def shown(general: GeneralAbility, width: int = 80) -> list[str]:
    console = make_console(io.StringIO())
    console.width = width
    console.print(general_table(general, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_perplexity_mean_of_headlines_and_change(tmp_path: Path) -> None:
    general = read_general(run_with(tmp_path / "run", BEFORE, None, AFTER), "sequential")
    assert general is not None
    first, last = general.stages
    assert (first.stage, last.stage) == (ZERO_SHOT, "b")
    assert first.values == {**BEFORE, "held_out_perplexity": pytest.approx(math.exp(2)), "mean": pytest.approx(0.55)}
    assert general.change == {
        "held_out_loss": 0.5,
        "held_out_perplexity": pytest.approx(math.exp(2.5) - math.exp(2)),
        "hellaswag/acc": pytest.approx(-0.1),
        "hellaswag/acc_norm": pytest.approx(-0.05),
        "winogrande/acc": pytest.approx(-0.2),
        "mean": pytest.approx(-0.125),
    }
    assert json.loads(json.dumps(general.to_json()))["stages"][1] == {"stage": "b", "values": last.values}


def test_the_table(tmp_path: Path) -> None:
    general = read_general(run_with(tmp_path / "run", BEFORE, AFTER, AFTER), "sequential")
    assert general is not None
    assert shown(general) == [
        "general ability, which no task taught, accuracies in percent; ↓ lower is better",
        "",
        "           held-out      held-out  hellaswag  winogrande",
        "             loss ↓  perplexity ↓   acc_norm         acc   mean",
        "───────────────────────────────────────────────────────────────",
        "zero-shot     2.000           7.4       50.0        60.0   55.0",
        "after a       2.500          12.2       45.0        40.0   42.5",
        "after b       2.500          12.2       45.0        40.0   42.5",
        "",
        "change       +0.500          +4.8       -5.0       -20.0  -12.5",
    ]
    line = "held-out loss 2.000  perplexity 7.4  hellaswag/acc_norm 50.0  winogrande/acc 60.0  mean 55.0"
    assert general_text(BEFORE) == line


def test_other_metrics_keep_their_unit() -> None:
    measured = {"wikitext/word_perplexity": 25.5, "gsm8k/exact_match,strict-match": 0.125, "x/bleu": 31.25}
    lines = shown(GeneralAbility([Measured("a", measured)], None))
    assert lines[2:] == [
        "                                   gsm8k",
        "                  wikitext  exact_match,       x",
        "         word_perplexity ↓  strict-match    bleu",
        "────────────────────────────────────────────────",
        "after a             25.500          12.5  31.250",
    ]
    assert "mean" not in " ".join(lines)  # of a perplexity and accuracies there is none


def test_what_was_not_finite_has_a_dash(tmp_path: Path) -> None:
    ruined = {"held_out_loss": None, "a/acc": 0.5, "b/acc": None}
    general = read_general(
        run_with(tmp_path / "run", {"held_out_loss": 1.0, "a/acc": 0.5, "b/acc": 0.5}, ruined), "sequential"
    )
    assert general is not None
    assert general.stages[1].values == {**ruined, "held_out_perplexity": None, "mean": None}
    assert shown(general)[-1].split() == ["change", "–", "–", "0.0", "–", "–"]


@pytest.mark.parametrize("number", [1, 4, 30])
def test_it_fits_into_80_columns(number: int) -> None:
    values = {f"a_task_with_a_name_longer_than_any_head_{index}/acc_norm": 0.5 for index in range(number)}
    lines = shown(GeneralAbility([Measured("a" * 60, values)], None))
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("50.0") == number


@pytest.mark.parametrize(
    ("protocol", "measured"),
    [("per_task", (BEFORE, AFTER, AFTER)), ("sequential", (None, AFTER, AFTER)), ("sequential", (BEFORE,))],
    ids=["models of their own", "no start", "only the start"],
)
def test_without_a_start_or_a_sequence_there_is_no_change(
    tmp_path: Path, protocol: Any, measured: tuple[dict[str, Any] | None, ...]
) -> None:
    general = read_general(run_with(tmp_path / "run", *measured), protocol)
    assert general is not None
    assert general.change is None
    assert not any(line.startswith("change") for line in shown(general))


def test_a_damaged_stage_is_left_out(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", BEFORE, AFTER, AFTER)
    done = run.stage_folder(1, "a") / "done.json"
    write_json(done, {**json.loads(done.read_text()), "general": {"held_out_loss": 0.0}})
    general = read_general(run, "sequential")
    assert general is not None
    assert [measured.stage for measured in general.stages] == [ZERO_SHOT, "b"]


class TestClkitMatrix:
    def call(self, *arguments: str) -> str:
        app = typer.Typer()
        app.command()(matrix)
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"}, catch_exceptions=False)
        return result.stdout

    def test_it_stands_below_the_metrics(self, tmp_path: Path) -> None:
        run = run_with(tmp_path / "run", BEFORE, AFTER, AFTER)
        printed = self.call(str(run.path))
        assert printed.index("learning_accuracy") < printed.index("general ability") < printed.index("change")
        plain = run_with(tmp_path / "plain", None, None, None)
        assert "general" not in self.call(str(plain.path))
        assert "general" not in self.call(str(plain.path), str(plain.path))
        own = "general ability, which no task taught"
        assert own not in self.call(str(run.path), str(plain.path))
        assert self.call(str(run.path), str(plain.path), "--all").count(own) == 1

    def rows(self, *runs: str) -> list[list[str]]:
        """The words of each line of the table of general ability."""
        printed = self.call(*runs)
        return [line.split() for line in printed[printed.index("general ability") :].splitlines()]

    def test_several_runs_stand_side_by_side(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed, loss in enumerate((2.5, 2.4, 2.6), start=1):
            run_with(Path(f"migu-{seed}"), BEFORE, None, {**AFTER, "held_out_loss": loss}, seed=seed)
        run_with(Path("plain"), None, None, None)
        rows = self.rows("migu-1", "migu-2", "migu-3")
        accuracies = ["45.0", "(-5.0)", "40.0", "(-20.0)", "42.5", "(-12.5)"]
        assert ["migu-1", "2.500", "(+0.500)", *accuracies] in rows
        assert ["migu-2", "2.400", "(+0.400)", *accuracies] in rows
        assert ["mean", "of", "3", "seeds", "2.500", "(+0.500)", *accuracies] in rows
        assert ["±", "std", "0.100", "0.0", "0.0", "0.0"] in rows
        assert "plain" not in [word for row in self.rows("migu-1", "plain") for word in row]

    def test_the_table_for_a_paper_has_it_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed, loss in enumerate((2.5, 2.4, 2.6), start=1):
            run_with(Path(f"migu-{seed}"), BEFORE, None, {**AFTER, "held_out_loss": loss}, seed=seed)
        head, numbers = csv.reader(
            self.call("migu-1", "migu-2", "migu-3", "--table", "csv").split("\n\n")[0].splitlines()
        )
        found = dict(zip(head, numbers, strict=True))
        assert (found["general held out loss"], found["general held out loss std"]) == ("2.500", "0.100")
        assert (found["general hellaswag/acc norm"], found["general mean"]) == ("45.0", "42.5")

    def test_a_run_in_progress_has_no_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        run_with(Path("whole"), BEFORE, AFTER, AFTER)
        run_with(Path("begun"), BEFORE, AFTER, seed=2)
        run_with(Path("other"), BEFORE, AFTER, AFTER, seed=3)
        rows = self.rows("whole", "begun", "other")
        assert ["begun", "–", "–", "–", "–"] in rows
        assert [row for row in rows if row[:4] == ["mean", "of", "2", "seeds"] and "–" not in row]

    def test_json(self, tmp_path: Path) -> None:
        run = run_with(tmp_path / "run", BEFORE, AFTER, AFTER)
        plain = run_with(tmp_path / "plain", None, None, None)
        measured, none = json.loads(self.call(str(run.path), str(plain.path), "--json"))["runs"]
        assert [stage["stage"] for stage in measured["general"]["stages"]] == [ZERO_SHOT, "a", "b"]
        assert measured["general"]["change"]["held_out_loss"] == 0.5
        assert none["general"] is None
