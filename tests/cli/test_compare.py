"""`clkit compare`: which runs are pairs, what is no fair pair, and the numbers of a comparison."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from clkit.cli import compare as verb
from clkit.errors import RunError, UsageError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from tests.scored import score

PLAIN = "strategies: []\ntraining: {learning_rate: 0.001}\ndata: {seed: 42, train_per_task: 100}\n"
MIGU = PLAIN.replace("[]", "[{name: migu, threshold: 0.7}]")
REPLAY = PLAIN.replace("[]", "[{name: replay}]")
TASKS = ("a", "b")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def compare(*arguments: str) -> Result:
    app = typer.Typer()
    app.command(cls=verb.Command)(verb.compare)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(compare(*arguments, "--json").stdout)
    return found


def make_run(
    name: str, seed: int, final: float = 0.5, recipe: str = PLAIN, tasks: Sequence[str] = TASKS, **matrix: Any
) -> str:
    """A run that learns its tasks to 0.9 and 0.7, and ends at ``final`` on the first: average (final + 0.7) / 2."""
    run = RunFolder.create(f"runs/{name}-{seed}", f"name: r\nseed: {seed}\n{recipe}", {})
    values = {"counts": [10, 10], "zero_shot": [0.0, 0.0], "rows": [[0.9, None], [final, 0.7]], **matrix}
    score(run, AccuracyMatrix(tasks=list(tasks), **values))
    return str(run.path)


def make_runs(name: str, finals: Sequence[float], recipe: str = PLAIN) -> list[str]:
    return [make_run(name, seed, final, recipe) for seed, final in enumerate(finals, start=1)]


def test_three_pairs_by_hand():
    ours, theirs = make_runs("migu", [0.6, 0.8, 0.7], MIGU), make_runs("plain", [0.5, 0.6, 0.4])
    found = data(*ours, "--against", *theirs)
    assert found["metric"] == "exact_match"
    (one,) = found["comparisons"]
    assert (one["method"], one["against"]) == ("migu", "plain")
    assert one["differs_in"] == ["strategies"]
    assert one["unpaired"] == []
    assert one["pairs"][0] == {
        "run": "runs/migu-1",
        "against": "runs/plain-1",
        "seed": 1,
        "data_seed": 42,
        "tasks": ["a", "b"],
    }
    bwt = one["metrics"]["bwt"]  # the differences are 0.1, 0.2 and 0.3
    assert bwt["n"] == 3
    assert (bwt["mean"], bwt["mean_against"], bwt["mean_difference"]) == pytest.approx((-0.2, -0.4, 0.2))
    assert bwt["interval_95"] == pytest.approx([0.2 - 4.30265 * 0.1 / 3**0.5, 0.2 + 4.30265 * 0.1 / 3**0.5])
    assert (bwt["p"], bwt["p_holm"]) == (0.25, 0.25)
    assert one["metrics"]["average_accuracy"]["mean_difference"] == pytest.approx(0.1)
    assert one["metrics"]["learning_accuracy"]["p"] == 1
    assert "fwt" not in one["metrics"]  # no run has it


def test_the_table_says_the_pairs():
    output = compare(
        *make_runs("migu", [0.6, 0.8, 0.7], MIGU), "--against", *make_runs("plain", [0.5, 0.6, 0.4])
    ).output
    assert "bwt -20.0 -40.0 +20.0 -4.8 to 44.8 0.250" in " ".join(output.split())
    assert "migu against plain: 3 pairs; they differ in strategies\n  a, b: seeds 1, 2, 3\n" in output
    assert "of 3 pairs p is never below 0.250" in output
    assert "Holm" not in output


def test_fewer_than_three_pairs_give_no_number():
    arguments = [*make_runs("migu", [0.6, 0.8], MIGU), "--against", *make_runs("plain", [0.5, 0.6])]
    output = compare(*arguments).output
    assert "migu against plain: 2 pairs" in output
    assert "fewer than 3 pairs of runs say nothing" in output
    assert "." not in output.replace("\n", " ")
    bwt = data(*arguments)["comparisons"][0]["metrics"]["bwt"]
    assert bwt.pop("note") == "fewer than 3 pairs of runs say nothing"
    assert bwt.pop("n") == 2
    assert set(bwt.values()) == {None}


def test_several_methods_in_one_folder_are_corrected():
    """p is smallest for the method that always gains: 2/64 of six pairs, times the two that are compared."""
    make_runs("replay", [0.9] * 6, REPLAY)
    make_runs("migu", [0.6, 0.5, 0.6, 0.5, 0.6, 0.4], MIGU)
    make_runs("plain", [0.5] * 6)
    plain = sorted(map(str, Path("runs").glob("plain-*")))
    migu, replay = data("runs", "--against", *plain)["comparisons"]
    assert (migu["method"], replay["method"]) == ("migu", "replay")
    assert (replay["metrics"]["bwt"]["p"], replay["metrics"]["bwt"]["p_holm"]) == (2 / 64, 4 / 64)
    assert migu["metrics"]["bwt"]["p"] == migu["metrics"]["bwt"]["p_holm"] == 40 / 64
    output = compare("runs", "--against", *plain).output
    assert "Holm" in output
    assert "0.031  0.062" in output


def test_orders_pair_too_and_what_has_no_partner_is_named():
    one = [
        make_run("migu", 1, 0.6, MIGU),
        make_run("migu-b", 1, 0.6, MIGU, ("b", "a")),
        make_run("migu", 7, 0.6, MIGU),
    ]
    other = [make_run("plain-b", 1, 0.5, PLAIN, ("b", "a")), make_run("plain", 1, 0.5)]
    other += [make_run("plain", 9, 0.5)]
    (found,) = data(*one, "--against", *other)["comparisons"]
    pairs = {(pair["run"], pair["against"]) for pair in found["pairs"]}
    assert pairs == {("runs/migu-1", "runs/plain-1"), ("runs/migu-b-1", "runs/plain-b-1")}
    assert found["unpaired"] == ["runs/migu-7", "runs/plain-9"]
    assert "without a partner: runs/migu-7, runs/plain-9" in compare(*one, "--against", *other).stdout
    said = compare(*one, "--against", *other, "--table", "csv").stderr
    assert said == "note: migu: without a partner: runs/migu-7, runs/plain-9\n"


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        (MIGU.replace("train_per_task: 100", "train_per_task: 50"), "data.train_per_task"),
        (MIGU + "protocol: multi_task\n", "protocol"),
        (MIGU + "model: {name: other}\n", "model"),
        (MIGU + "evaluation: {answer: rank}\n", "evaluation"),
        (MIGU + "prompt: {task_name: true}\n", "prompt"),
    ],
)
def test_an_unfair_pair_is_refused_and_says_by_what(recipe: str, key: str):
    ours, theirs = make_runs("migu", [0.6] * 3, recipe), make_runs("plain", [0.5] * 3)
    with pytest.raises(UsageError, match=f"runs/migu-1 and runs/plain-1 differ in {key}: no fair pair"):
        compare(*ours, "--against", *theirs)


def test_other_rates_and_tuning_are_of_the_method():
    recipe = MIGU.replace("0.001", "0.01") + "tuning: {method: lora}\n"
    (found,) = data(*make_runs("migu", [0.6] * 3, recipe), "--against", *make_runs("plain", [0.5] * 3))["comparisons"]
    assert found["differs_in"] == ["strategies", "training.learning_rate", "tuning"]


def test_generated_answers_pair_with_those_of_both_ways():
    ours = make_runs("migu", [0.6] * 3, MIGU + "evaluation: {answer: both}\n")
    assert data(*ours, "--against", *make_runs("plain", [0.5] * 3, PLAIN + "evaluation: {answer: generate}\n"))


def test_other_numbers_of_test_examples_are_no_fair_pair():
    ours = [make_run("migu", 1, 0.6, MIGU, counts=[10, 11])]
    with pytest.raises(UsageError, match="tested on exact_match of 10, 11 examples and exact_match of 10, 10 examples"):
        compare(*ours, "--against", *make_runs("plain", [0.5]))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (["migu"], ["plain", "replay"], "--against takes the runs of one method, and runs/plain-1 and runs/replay-1"),
        (["plain"], ["plain"], "no finished run to compare"),
        (["plain"], ["again"], "runs/plain-1 and runs/again-1: their recipes say the same"),
        (["migu"], ["plain9"], "no pair has the same seed, data.seed and order"),
        (["plain", "again"], ["migu"], "runs/plain-1 and runs/again-1: the same recipe, seed and order twice"),
    ],
)
def test_what_cannot_be_compared_is_said(ours: list[str], theirs: list[str], message: str):
    recipes = {"migu": MIGU, "replay": REPLAY}
    for name in ("migu", "plain", "replay", "again"):
        make_runs(name, [0.5] * 3, recipes.get(name, PLAIN))
    make_run("plain9", 9)
    paths = {name: sorted(map(str, Path("runs").glob(f"{name}-*"))) for name in (*ours, *theirs)}
    with pytest.raises(UsageError, match=message):
        compare(
            *(run for name in ours for run in paths[name]), "--against", *(p for name in theirs for p in paths[name])
        )


def test_a_run_in_progress_is_left_out():
    ours = [*make_runs("migu", [0.6] * 3, MIGU), make_run("migu", 4, recipe=MIGU, rows=[[0.9, None]])]
    result = compare(*ours, "--against", *make_runs("plain", [0.5] * 4))
    assert "warning: runs/migu-4 is left out: run in progress: 1 of 2 tasks learned" in result.stderr
    assert "3 pairs" in result.stdout


def test_all_paths_after_against_belong_to_it_until_an_option():
    ours, theirs = make_runs("migu", [0.6] * 3, MIGU), make_runs("plain", [0.5] * 3)
    expected = compare(*ours, "--against", *theirs, "--json").output
    assert compare("--against", *theirs, "--json", *ours).output == expected
    assert (
        compare(f"--against={theirs[0]}", *theirs[1:], "--", *ours).output
        == compare(*ours, "--against", *theirs).output
    )


def test_logs_of_a_sweep_beside_its_runs_are_passed_over():
    ours, theirs = make_runs("migu", [0.6, 0.8, 0.7], MIGU), make_runs("plain", [0.5, 0.6, 0.4])
    for log in (logs := [f"{run}.log" for run in (*ours, *theirs)]):
        Path(log).write_text("")
    said = compare(*ours, *logs[:3], "--against", *theirs, *logs[3:]).stdout
    assert said == compare(*ours, "--against", *theirs).stdout
    Path("runs/alone.log").write_text("")  # of a run that was stopped before it had a folder
    assert compare(*ours, "runs/alone.log", "--against", *theirs, "runs/alone.log").stdout == said
    with pytest.raises(RunError, match=r"alone\.log: is the log of a run, and no run folder"):
        compare("runs/alone.log", "--against", *theirs)


def test_runs_that_read_other_data_are_no_fair_pair():
    def read(run: str, **found: str) -> None:
        RunFolder(Path(run)).note_in_environment(read={f"tasks.a.{split}": value for split, value in found.items()})

    ours, theirs = make_runs("migu", [0.6, 0.8, 0.7], MIGU), make_runs("plain", [0.5, 0.6, 0.4])
    for run in (*ours, *theirs):
        read(run, train=f"8 examples, {run[-1]}", test="4 examples, 1")
    assert len(data(*ours, "--against", *theirs)["comparisons"][0]["pairs"]) == 3
    read(ours[2], train="8 examples, 3", test="4 examples, 2")
    with pytest.raises(
        UsageError, match=r"migu-3 and .*plain-3: no fair pair, for what they read was changed .*a\.test"
    ):
        compare(*ours, "--against", *theirs)
    assert len(data(*ours[:2], "--against", *theirs)["comparisons"][0]["pairs"]) == 2
    read(ours[2], train="8 examples, 4", test="4 examples, 1")
    with pytest.raises(UsageError, match=r"was changed in between: tasks\.a\.train; train one"):
        compare(*ours, "--against", *theirs)


def test_a_long_label_costs_no_number():
    both = [make_runs(f"migu-{t}", [0.6, 0.8, 0.7], MIGU.replace("0.7", f"0.{t}")) for t in (5, 6)]
    rates = make_runs("slow", [0.6, 0.8, 0.7], MIGU.replace("0.001", "0.0001"))
    shown = compare(*both[0], *both[1], *rates, "--against", *make_runs("plain", [0.5, 0.6, 0.4])).stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("arguments", ["'compare', 'runs', '--against', *plain", "'matrix', 'runs'"])
def test_a_hundred_runs_take_less_than_two_seconds_and_no_torch(folder: Path, arguments: str):
    draw = np.random.default_rng(0)
    for name, recipe in (("plain", PLAIN), ("migu", MIGU), ("replay", REPLAY), ("ewc", PLAIN.replace("[]", "[ewc]"))):
        make_runs(name, draw.uniform(0, 0.9, 25).round(2).tolist(), recipe)
    code = (
        "import sys\nfrom pathlib import Path\nfrom clkit.cli.app import app\n"
        "plain = sorted(map(str, Path('runs').glob('plain-*')))\n"
        f"app([{arguments}], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'peft', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("25 pairs") == 3
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # of computing, whoever else waits


def test_a_papers_table_and_methods_named_by_what_differs():
    runs = {
        threshold: make_runs(
            f"m{threshold}", [threshold - 0.3] * 3, PLAIN.replace("[]", f"[{{name: migu, threshold: {threshold}}}]")
        )
        for threshold in (0.5, 0.7, 0.9)
    }
    output = compare(*runs[0.5], *runs[0.9], "--against", *runs[0.7], "--table", "latex").output
    assert output.splitlines()[3].startswith("method & metric & pairs & mean & migu.threshold 0.7 & difference & from")
    assert r"migu.threshold 0.9 & BWT & 3 & $-$30.0 & $-$50.0 & +20.0 & 20.0 & 20.0 & 0.250 & 0.500 \\" in output
    with pytest.raises(UsageError, match="--json and --table exclude each other"):
        compare(*runs[0.5], "--against", *runs[0.7], "--table", "latex", "--json")


# --- general ability ------------------------------------------------------------------------------------------------


def measured_runs(name: str, losses: Sequence[float | None], recipe: str) -> list[str]:
    """Runs of one task that end with this loss on held-out text and so many percent of a test of lm-eval."""
    paths = []
    for seed, loss in enumerate(losses, start=1):
        run = RunFolder.create(f"runs/{name}-{seed}", f"name: r\nseed: {seed}\n{recipe}", {})
        matrix = AccuracyMatrix(["a"], [10], zero_shot=[0.0], rows=[[0.5]])
        for index, stage in enumerate(["zero-shot", "a"]):
            general = {"held_out_loss": 3.0 if index == 0 else loss, "arc/acc": 0.5 - 0.1 * index}
            extra = {} if loss is None else {"general": general}
            row = matrix.rows[0] if index else matrix.zero_shot
            run.start_stage(index, stage)
            run.finish_stage(index, stage, {"row": row, "matrix": matrix.header(), **extra})
        paths.append(str(run.path))
    return paths


def test_what_is_left_of_general_ability_is_compared_too():
    ours = measured_runs("migu", [3.1, 3.2, 3.3], MIGU)
    theirs = measured_runs("plain", [3.0, 3.0, 3.3], PLAIN)
    (one,) = data(*ours, "--against", *theirs)["comparisons"]
    loss = one["general"]["held_out_loss"]
    assert loss["mean_difference"] == pytest.approx(0.1)
    assert loss["interval_95"] == pytest.approx([0.1 - 4.30265 * 0.1 / 3**0.5, 0.1 + 4.30265 * 0.1 / 3**0.5], rel=1e-4)
    assert loss["p"] == 0.5
    assert one["general"]["arc/acc"]["mean"] == pytest.approx(0.4)
    table = compare(*ours, "--against", *theirs).stdout
    (line,) = (line.split() for line in table.splitlines() if "held_out_loss" in line)
    assert line == ["held_out_loss", "3.200", "3.100", "+0.100", "-0.148", "to", "0.348", "0.500"]
    (line,) = (line.split() for line in table.splitlines() if "arc/acc" in line)
    assert line == ["arc/acc", "40.0", "40.0", "0.0", "0.0", "to", "0.0", "1.000"]
    assert "loss: lower is better" in table
    assert "held out loss" in compare(*ours, "--against", *theirs, "--table", "csv").stdout


def test_general_ability_that_some_runs_lack_is_not_compared():
    ours, theirs = measured_runs("migu", [3.1, None, 3.3], MIGU), measured_runs("plain", [3.0, 3.0, 3.3], PLAIN)
    said = compare(*ours, "--against", *theirs).stdout
    assert "missing in 1 of 3 pairs: no held_out_loss, arc/acc" in " ".join(said.split())


def test_general_ability_on_other_texts_is_not_compared():
    ours = measured_runs("migu", [3.1, 3.2, 3.3], f"{MIGU}general: {{texts: builtin}}\n")
    theirs = measured_runs("plain", [3.0, 3.0, 3.3], f"{PLAIN}general: {{texts: mine.txt}}\n")
    (one,) = data(*ours, "--against", *theirs)["comparisons"]
    assert one["general"] == {}
    assert "general.texts" in one["differs_in"]
