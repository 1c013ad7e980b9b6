"""`clkit matrix`: tables, JSON, CSV, and errors of one line."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from clkit.cli.matrix import matrix
from clkit.errors import RunError, UsageError
from clkit.report.matrix_tables import matrix_table
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from clkit.run.layout import ZERO_SHOT
from tests.scored import score


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def call(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(matrix)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_run(
    seed: int,
    *,
    name: str = "x",
    final: float = 0.5,
    learned: int = 2,
    recipe: str = "",
    tasks: str = "ab",
    called: str | None = None,
) -> str:
    run = RunFolder.create(f"runs/{name}-{seed}", f"name: {called or name}\nseed: {seed}\n{recipe}", {})
    rows = [[1.0, None], [final, 0.75]][:learned]
    score(run, AccuracyMatrix(tasks=list(tasks), counts=[4, 4], zero_shot=[0.0, 0.25], rows=rows))
    return f"runs/{name}-{seed}"


def test_one_run_shows_matrix_and_metrics():
    output = call(make_run(1)).output
    assert "runs/x-1" in output
    assert "after b     50.0  75.0" in output
    assert "bwt                       -50.0  mean_{j<T} (R[T][j] - R[j][j])" in output


def test_without_a_run_the_newest_is_shown():
    make_run(1)
    assert call().output.startswith("runs/x-1")


def test_no_run_at_all():
    with pytest.raises(RunError, match="start one with `clkit train`"):
        call()


def test_run_in_progress_says_so():
    output = call(make_run(1, learned=1)).output
    assert "100.0" in output
    assert "runs/x-1: run in progress: 1 of 2 tasks learned; the metrics come with the last task" in output
    assert "bwt" not in output


def test_one_that_has_only_begun_is_left_out_of_several():
    make_run(1)
    RunFolder.create("runs/x-2", "name: x\nseed: 2\n", {})
    result = call("runs")
    assert result.stderr == "note: runs/x-2: nothing was evaluated so far, so it is left out\n"
    assert result.stdout == call("runs/x-1").stdout
    with pytest.raises(RunError, match=r"runs/x-2: nothing was evaluated so far$"):
        call("runs/x-2")


def test_groups_of_seeds_say_what_they_differ_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    methods = {
        "plain": "strategies: []",
        "low": "strategies: [{name: migu, threshold: 0.7}]",
        "high": "strategies: [{name: migu, threshold: 0.9}]",
    }
    runs = [make_run(seed, name=name, recipe=said, called="x") for name, said in methods.items() for seed in (1, 2)]
    said = call(*runs)
    output = said.stdout
    shown = " ".join(output.split())
    for label in ("none", "migu, migu.threshold 0.7", "migu, migu.threshold 0.9"):
        name = {"none": "plain"}.get(label, "low" if "0.7" in label else "high")
        assert shown.count(f"strategies {label} runs/{name}-1 ") == 1, output
    assert max(map(len, output.splitlines())) <= 80
    assert said.stderr == (
        "note: not compared with strategies none, since a test takes 3 pairs of runs: "
        "strategies migu, migu.threshold 0.7 (2), strategies migu, migu.threshold 0.9 (2)\n"
    )
    labels = [group["label"] for group in json.loads(call(*runs, "--json").stdout)["aggregates"]]
    assert labels[1:] == ["strategies migu, migu.threshold 0.7", "strategies migu, migu.threshold 0.9"]


def test_several_runs_get_a_row_each_and_the_seeds_a_mean():
    output = call(make_run(1, final=0.5), make_run(2, final=0.75), make_run(1, name="other")).output
    assert output.count("mean of 2 seeds") == 1
    assert "interval" not in output  # that takes three
    assert "runs/other-1" in output
    assert "after a" not in output


def test_groups_of_three_seeds_are_compared_by_their_pairs():
    plain = [make_run(seed, final=final) for seed, final in ((1, 0.5), (2, 0.6), (3, 0.4))]
    replay = [
        make_run(seed, name="y", final=final, recipe="strategies: [{name: replay}]\n")
        for seed, final in ((1, 0.6), (2, 0.8), (3, 0.7))
    ]
    output = " ".join(call(*plain, *replay).output.split())
    assert "bwt -30.0 -50.0 +20.0 -4.8 to 44.8 0.250" in output
    assert "y against x: 3 pairs; they differ in strategies a, b: seeds 1, 2, 3" in output
    (found,) = json.loads(call("runs", "--json").output)["comparisons"]
    assert found["metrics"]["bwt"]["mean_difference"] == pytest.approx(0.2)
    assert json.loads(call(*plain, *replay[:2], "--json").stdout)["comparisons"] == []
    unfair = [make_run(seed, name="z", recipe="protocol: multi_task\n") for seed in (1, 2, 3)]
    said = call(*plain, *replay, *unfair, "--json")
    found = json.loads(said.stdout)
    assert [one["method"] for one in found["comparisons"]] == ["y"]
    (remark,) = found["remarks"]
    assert remark.startswith("not compared: runs/z-1 and runs/x-1 differ in protocol: no fair pair; ")
    assert said.stderr == f"note: {remark}\n"


def test_a_mean_over_runs_that_read_other_data_is_remarked_on():
    runs = [make_run(seed) for seed in (1, 2, 3)]
    for run, version in zip(runs, "112", strict=True):
        read = {"tasks.a.test": f"4 examples, {version}", "tasks.a.train": f"8 examples, {run[-1]}"}
        RunFolder(Path(run)).note_in_environment(read=read)
    (remark,) = json.loads(call(*runs, "--json").stdout)["remarks"]
    assert remark.startswith("runs/x-3 and runs/x-1: what they read was changed in between (tasks.a.test): their mean")


def test_a_seed_that_is_there_twice_has_no_mean_and_that_is_said():
    shutil.copytree(make_run(1), "runs/again")
    said = call("runs", make_run(2))
    assert "mean of" not in said.stdout
    assert (
        "runs/again, runs/x-1, runs/x-2: no mean, for they are of one recipe, and a seed is there twice" in said.stderr
    )


def test_an_unfinished_run_takes_nothing_from_the_mean_of_the_others():
    runs = [make_run(1), make_run(2), make_run(3, learned=1)]
    assert "mean of 2 seeds" in call(*runs).stdout
    table = [*csv.reader(io.StringIO(call(*runs, "--table", "csv").stdout))]
    assert [row[1] for row in table] == ["seeds", "2"]


def test_chance_stands_below_and_a_task_below_it_is_remarked_on():
    guesses = {"uniform": [0.5, 0.25], "majority": [0.625, 0.8]}
    for seed in (1, 2):
        folder = RunFolder.create(f"runs/x-{seed}", f"name: x\nseed: {seed}\n", {})
        rows = [[1.0, None], [0.5, 0.75]]
        drawn = guesses | {"majority": [0.625 + 0.05 * (seed - 1), 0.8]}
        matrix = AccuracyMatrix(tasks=["a", "b"], counts=[4, 4], rows=rows, chance={"exact_match": drawn})
        score(folder, matrix)
    remark = (
        "runs/x-1: 'b' was learned to 75.0 %, below the 80.0 % of always answering its most frequent training label"
    )
    output = " ".join(call("runs/x-1").output.split())
    assert "uniform guesses 50.0 25.0 most frequent label 62.5 80.0" in output
    assert remark in output
    assert "chance 37.5 average accuracy of uniform guesses" in output
    both = " ".join(call("runs").output.split())
    assert "chance: uniform guesses 37.5" in both
    assert "chance: most frequent label 72.5" in both  # on average: seeds draw other training labels
    assert remark in both
    assert remark.replace("x-1", "x-2") in both
    assert json.loads(call("runs/x-1", "--json").output)["runs"][0]["below_majority"] == ["b"]


def test_a_papers_table_of_one_run_is_its_matrix():
    lines = [*csv.reader(call(make_run(1), "--table", "csv").output.splitlines())]
    assert lines == [
        ["", "a", "b"],
        ["zero-shot", "0.0", "25.0"],
        ["after a", "100.0", ""],
        ["after b", "50.0", "75.0"],
    ]


def test_a_papers_table_has_a_row_per_method_and_marks_the_best():
    plain = [make_run(seed, final=final) for seed, final in ((1, 0.5), (2, 0.6), (3, 0.4))]
    replay = [make_run(seed, name="y", final=0.75, recipe="strategies: [{name: replay}]\n") for seed in (1, 2)]
    alone = make_run(7, name="z", recipe="strategies: [{name: ewc}]\n")
    output = call(*plain, *replay, alone, "--table", "markdown").stdout
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in output.splitlines()]
    assert rows[0] == [
        "method",
        "seeds",
        *["average accuracy", "average accuracy micro", "BWT", "forgetting", "learning accuracy"],
    ]
    assert rows[2] == ["x", "3", *["62.5 ± 5.0"] * 2, "-50.0 ± 10.0", "50.0 ± 10.0", "87.5 ± 0.0"]
    assert rows[3][2:6] == ["**75.0 ± 0.0**", "**75.0 ± 0.0**", "**-25.0 ± 0.0**", "**25.0 ± 0.0**"]
    assert rows[4][:3] == ["runs/z-7", "1", "62.5"]
    assert not any("**" in row[-1] for row in rows[2:5])  # all learned alike


def test_a_curve_for_each_task_learned():
    lines = [line.split() for line in call(make_run(1)).output.splitlines()]
    assert ["a", "▁█▅", "100.0", "50.0", "-50.0"] in lines
    assert ["b", "▃·▆", "75.0", "75.0", "0.0"] in lines


def test_warm_cells_in_a_terminal_and_none_without_colour(monkeypatch: pytest.MonkeyPatch):
    table = matrix_table(RunFolder.open(make_run(1)).read_matrix(), 80)
    texts = {}
    for colour in (None, "1"):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if colour:
            monkeypatch.setenv("NO_COLOR", colour)
        console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
        console.print(table)
        texts[colour] = console.file.getvalue()
    assert re.search(r"\x1b\[1;38;[\d;]+48;[\d;]+m100\.0", texts[None])
    assert "48;" not in texts["1"]
    assert "\x1b[1m100.0" in texts["1"]


def test_one_seed_has_no_interval():
    output = call(make_run(1), make_run(1, name="other")).output
    assert "mean of" not in output
    assert "interval" not in output


def test_all_shows_each_matrix():
    assert call(make_run(1), make_run(2), "--all").output.count("after a") == 2


def test_json():
    data = json.loads(call(make_run(1, final=0.5), make_run(2, final=0.75), "--json").output)
    assert [run["run"] for run in data["runs"]] == ["runs/x-1", "runs/x-2"]
    first = data["runs"][0]
    assert first["in_progress"] is False
    assert AccuracyMatrix.from_json(first["matrix"]).rows == [[1.0, None], [0.5, 0.75]]
    assert first["metrics"]["bwt"]["value"] == -0.5
    assert first["metrics"]["fwt"]["value"] is None
    (group,) = data["aggregates"]
    assert group["runs"] == ["runs/x-1", "runs/x-2"]
    assert group["metrics"]["bwt"]["mean"] == pytest.approx(-0.375)
    assert group["metrics"]["bwt"]["n"] == 2


def test_json_of_one_run_has_the_same_shape():
    data = json.loads(call(make_run(1), "--json").output)
    assert len(data["runs"]) == 1
    assert data["aggregates"] == []


def make_baseline(protocol: str, *, extra: str = "", tasks: tuple[str, ...] = ("b", "a"), **changes: object) -> str:
    """A run over the tasks the other way round; alone it learns 0.875 on a and 1.0 on b, together 0.75 and 0.5."""
    run = RunFolder.create(f"runs/{protocol}-9", f"name: {protocol}\nseed: 9\n{extra}", {})
    scores = {"per_task": {"a": 0.875, "b": 1.0}, "multi_task": {"a": 0.75, "b": 0.5}}.get(protocol, {})
    row = [scores.get(task, 0.0) for task in tasks]
    alone = [[score if i == j else None for j, score in enumerate(row)] for i in range(len(row))]
    rows = {"per_task": alone, "multi_task": [row]}.get(protocol, [])
    values = {
        "counts": [4] * len(tasks),
        "rows": rows,
        "protocol": protocol,
        "zero_shot": [0.0] * len(tasks),
        **changes,
    }
    score(run, AccuracyMatrix(tasks=list(tasks), **values))
    return f"runs/{protocol}-9"


def references(*protocols: str) -> list[str]:
    return [part for protocol in protocols for part in ("--reference", make_baseline(protocol))]


def test_references_are_matched_by_the_tasks_names():
    output = call(make_run(1, final=0.5), *references("per_task", "multi_task")).output
    lines = [line.split() for line in output.splitlines()]
    assert ["intransigence", "6.2", "mean_j", "(R*[j]", "-", "R[j][j])"] in lines  # (0.875 - 1.0 + 1.0 - 0.75) / 2
    assert ["upper_bound_distance", "0.0", "mean_j", "(U[j]", "-", "R[T][j])"] in lines
    assert ["upper", "bound", "(multi-task)", "62.5", "average", "accuracy", "of", "runs/multi_task-9"] in lines
    assert ["R*", "(one", "model", "per", "task)", "93.8", "average", "accuracy", "of", "runs/per_task-9"] in lines


def test_one_reference_for_several_seeds():
    runs = [make_run(1, final=0.5), make_run(2, final=0.75)]
    data = json.loads(call(*runs, *references("per_task", "multi_task"), "--json").output)
    assert [one["metrics"]["intransigence"]["value"] for one in data["runs"]] == [0.0625, 0.0625]
    assert [one["metrics"]["upper_bound_distance"]["value"] for one in data["runs"]] == [0.0, -0.125]
    (group,) = data["aggregates"]
    assert group["metrics"]["intransigence"]["mean"] == 0.0625
    assert group["metrics"]["upper_bound_distance"]["mean"] == -0.0625
    assert [(one["run"], one["matrix"]["protocol"]) for one in data["references"]] == [
        ("runs/per_task-9", "per_task"),
        ("runs/multi_task-9", "multi_task"),
    ]
    assert data["references"][1]["metrics"]["average_accuracy"]["value"] == 0.625
    output = call(*runs, "--reference", "runs/per_task-9", "--reference", "runs/multi_task-9").output
    assert output.count("mean of 2 seeds") == 2
    assert [line.split() for line in output.splitlines() if line.startswith("runs/x-2")][1] == [
        "runs/x-2",
        "6.2",
        "-12.5",
    ]


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("per_task", {"tasks": ("a", "c")}, "runs/per_task-9: has no score on b, which runs/x-1 learned"),
        ("multi_task", {"tasks": ("c", "a", "b")}, "is no upper bound for runs/x-1, for it learned c besides"),
        ("multi_task", {"metric": "f1"}, "its scores are f1, those of runs/x-1 exact_match"),
        ("per_task", {"rows": []}, "run in progress: 0 of 2 tasks learned; finish it with --resume"),
        ("zero_shot", {}, r"protocol: zero_shot; name one .*; FWT needs each run's own zero-shot row"),
        (
            "sequential",
            {"rows": [[0.5, 0.5]] * 2},
            r"protocol: sequential; name one .* multi_task \(the upper bound\)$",
        ),
    ],
)
def test_a_reference_that_does_not_fit_is_one_line(protocol: str, changes: dict, message: str):
    baseline = make_baseline(protocol, **changes)
    with pytest.raises(UsageError, match=message) as refused:
        call(make_run(1), "--reference", baseline)
    assert "\n" not in str(refused.value)


def test_further_tasks_learned_alone_do_no_harm():
    make_baseline("per_task", tasks=("c", "b", "a"))
    data = json.loads(call(make_run(1), "--reference", "runs/per_task-9", "--json").output)
    assert data["runs"][0]["metrics"]["intransigence"]["value"] == 0.0625


def test_two_references_of_one_kind():
    with pytest.raises(UsageError, match="is the second with protocol: per_task, after runs/per_task-9; name one"):
        call(make_run(1), *references("per_task"), "--reference", "runs/per_task-9")


def test_a_reference_needs_metrics():
    with pytest.raises(UsageError, match="--csv holds scores only"):
        call(make_run(1), *references("per_task"), "--csv")


def test_a_reference_that_was_made_otherwise_is_warned_of():
    runs = [make_run(1), make_run(2)]
    fair = call(*runs, *references("per_task"))
    assert fair.stderr == ""
    unfair = make_baseline("multi_task", extra="tuning: {rank: 8}\nmodel: {name: t5}\ntraining: {epochs: 3}\n")
    assert call(*runs, "--reference", unfair).stderr == (
        "warning: runs/multi_task-9 and runs/x-1, runs/x-2 differ in tuning, model: the comparison may not be fair\n"
    )


def test_a_reference_that_was_tested_on_other_data_is_warned_of():
    run, option = make_run(1), references("multi_task")
    for path, version in ((run, "1"), (option[-1], "2")):
        RunFolder(Path(path)).note_in_environment(read={"tasks.a.test": f"4 examples, {version}"})
    assert " differ in tasks.a.test: the comparison may not be fair\n" in call(run, *option).stderr


@pytest.mark.parametrize("protocol", ["per_task", "multi_task", "zero_shot"])
def test_a_baseline_by_itself(protocol: str):
    output = call(make_baseline(protocol)).output
    assert "after" not in output
    assert f"(protocol: {protocol})" in output


def test_csv_leaves_what_was_not_measured_empty():
    lines = list(csv.reader(call(make_run(1), "--csv").output.splitlines()))
    assert lines == [
        ["run", "stage", "task", "score"],
        ["runs/x-1", "0", "a", "0.0"],
        ["runs/x-1", "0", "b", "0.25"],
        ["runs/x-1", "1", "a", "1.0"],
        ["runs/x-1", "1", "b", ""],
        ["runs/x-1", "2", "a", "0.5"],
        ["runs/x-1", "2", "b", "0.75"],
    ]


def make_scored(
    name: str = "x-1",
    *,
    protocol: str = "sequential",
    scores: dict[str, dict[str, list[float | None]]] | None = None,
    tasks: tuple[str, ...] = ("a", "b"),
) -> RunFolder:
    """A run whose stages hold the scores of two metrics; by default of a sequence, with a zero-shot row."""
    recipe, seed = name.rsplit("-", 1)
    run = RunFolder.create(f"runs/{name}", f"name: {recipe}\nseed: {seed}\n", {})
    scores = scores or SCORES
    rows = {stage: by_metric["exact_match"] for stage, by_metric in scores.items()}
    first = rows.pop(ZERO_SHOT, None)
    matrix = AccuracyMatrix(
        tasks=list(tasks), counts=[4] * len(tasks), protocol=protocol, zero_shot=first, rows=list(rows.values())
    )
    return score(run, matrix, scores)


SCORES: dict[str, dict[str, list[float | None]]] = {
    ZERO_SHOT: {"exact_match": [0.0, 0.25], "macro_f1": [0.125, 0.25], "loss": [3.0, 4.0]},
    "a": {"exact_match": [1.0, None], "macro_f1": [0.75, None], "loss": [1.0, None]},
    "b": {"exact_match": [0.5, 0.75], "macro_f1": [0.25, 0.5], "loss": [2.5, 1.5]},
}


class TestMetric:
    """`--metric`: the matrix of another metric, from what the stages keep."""

    def test_the_scores_are_the_other_metrics(self):
        make_scored()
        output = call("runs/x-1", "--metric", "macro_f1").output
        assert "macro_f1 in percent" in output
        assert ["after", "b", "25.0", "50.0"] in [line.split() for line in output.splitlines()]
        assert "average_macro_f1 " in output
        assert "bwt                       -50.0" in output

    def test_lower_is_better_for_a_loss(self):
        make_scored()
        (one,) = json.loads(call("--metric", "loss", "--json").output)["runs"]
        matrix = AccuracyMatrix.from_json(one["matrix"])
        assert (matrix.metric, matrix.higher_is_better) == ("loss", False)
        assert [matrix.zero_shot, *matrix.rows] == [row["loss"] for row in SCORES.values()]
        assert one["metrics"]["bwt"]["value"] == -1.5
        assert one["metrics"]["bwt"]["formula"] == "mean_{j<T} (R[j][j] - R[T][j])"
        assert "loss (lower is better)" in call("--metric", "loss").output

    def test_forgetting_is_split_and_ranked_labels_are_shown_beside(self):
        a, b = [1.0, None], [0.5, 0.75]
        both = {
            "a": {"exact_match": a, "outside_labels": [0.0, None], "accuracy_ranked": [1.0, None]},
            "b": {"exact_match": b, "outside_labels": [0.375, 0.25], "accuracy_ranked": [0.875, 0.75]},
        }
        make_scored(scores=both)
        output = " ".join(call().output.split())
        assert "forgetting_outside_labels 37.5" in output
        assert "forgetting_among_labels 12.5" in output
        assert "(--metric accuracy_ranked): average_accuracy 81.2" in output
        assert "bwt -12.5" in output
        (one,) = json.loads(call("--json").output)["runs"]
        assert one["ranked"]["bwt"]["value"] == -0.125
        assert one["metrics"]["forgetting_outside_labels"]["value"] == 0.375
        outside = call("--metric", "outside_labels").output
        assert "outside_labels in percent (lower is better)" in outside
        assert "bwt -37.5" in " ".join(outside.split())
        assert json.loads(call("--metric", "accuracy_ranked", "--json").output)["runs"][0]["ranked"] is None

    def test_of_ranked_labels_a_metric_of_zero_is_no_missing_one(self):
        make_scored(scores={task: {"exact_match": [1.0, 0.5], "accuracy_ranked": [0.5, 0.5]} for task in "ab"})
        assert "bwt 0.0, forgetting 0.0" in " ".join(call().output.split())

    def test_the_runs_own_metric_may_be_named(self):
        make_scored()
        assert call("--metric", "exact_match").output == call().output
        assert call(make_run(2), "--metric", "exact_match").output == call("runs/x-2").output

    def test_csv(self):
        make_scored()
        lines = call("--metric", "loss", "--csv").output.splitlines()
        assert lines[1:3] == ["runs/x-1,0,a,3.0", "runs/x-1,0,b,4.0"]
        assert lines[4] == "runs/x-1,1,b,"

    def test_several_runs_and_their_mean(self):
        make_scored("x-1"), make_scored("x-2")
        output = call("runs/x-1", "runs/x-2", "--metric", "loss").output
        assert "mean of 2 seeds" in output
        assert "loss: lower is better" in output

    def test_baselines(self):
        make_scored()
        alone = {
            "b": {"exact_match": [0.5, None], "loss": [1.25, None]},
            "a": {"exact_match": [None, 1.0], "loss": [None, 0.5]},
        }
        together = {"all-tasks": {"exact_match": [0.5, 0.5], "loss": [1.0, 1.0]}}
        make_scored("alone-1", protocol="per_task", scores=alone, tasks=("b", "a"))
        make_scored("together-1", protocol="multi_task", scores=together)
        given = ["--reference", "runs/alone-1", "--reference", "runs/together-1", "--metric", "loss"]
        (one,) = json.loads(call("runs/x-1", *given, "--json").output)["runs"]
        assert one["metrics"]["intransigence"]["value"] == ((1.0 - 0.5) + (1.5 - 1.25)) / 2
        assert one["metrics"]["upper_bound_distance"]["value"] == ((2.5 - 1.0) + (1.5 - 1.0)) / 2
        assert "average loss of runs/together-1" in call("runs/x-1", *given).output

    def test_a_reference_without_that_metric(self):
        make_scored()
        only = {"all-tasks": {"exact_match": [0.5, 0.5]}}
        make_scored("together-1", protocol="multi_task", scores=only)
        with pytest.raises(
            UsageError, match=r"^runs/together-1: no scores of metric 'loss' \(the run has: exact_match\)$"
        ):
            call("runs/x-1", "--reference", "runs/together-1", "--metric", "loss")

    def test_an_unknown_metric_names_those_there_are(self):
        make_scored()
        with pytest.raises(UsageError) as refused:
            call("--metric", "macrof1")
        assert str(refused.value) == (
            "runs/x-1: no scores of metric 'macrof1', did you mean 'macro_f1'? "
            "(the run has: exact_match, macro_f1, loss)"
        )

    def test_a_stage_that_was_not_tested_is_a_row_of_dashes(self):
        """As with `evaluation.tasks: final`, or where only some tasks have labels."""
        untested = {"exact_match": [None, None]}
        make_scored(scores={"a": untested, "b": SCORES["b"]})
        (one,) = json.loads(call("--metric", "macro_f1", "--json").output)["runs"]
        assert one["matrix"]["rows"] == [[None, None], [0.25, 0.5]]
        assert one["in_progress"] is False

    def test_the_scores_of_a_damaged_stage_are_not_known(self):
        run = make_scored()
        (run.stage_folder(1, "a") / "done.json").write_text("{")
        result = call("--metric", "loss", "--json")
        (one,) = json.loads(result.stdout)["runs"]
        assert one["matrix"]["rows"] == [[None, None], [2.5, 1.5]]
        assert "tasks/01-a/done.json cannot be read" in result.stderr


@pytest.mark.parametrize("flags", [("--json", "--csv"), ("--table", "latex", "--csv"), ("--table", "csv", "--json")])
def test_one_form_at_a_time(flags: tuple[str, ...]):
    with pytest.raises(UsageError, match="--json, --csv and --table exclude each other"):
        call(make_run(1), *flags)


@pytest.mark.parametrize("flags", [("--all", "--json"), ("--all", "--csv"), ("--all", "--table", "latex")])
def test_all_is_for_the_terminal(flags: tuple[str, ...]):
    with pytest.raises(UsageError, match="--all is for the terminal"):
        call(make_run(1), *flags)


ROWS: dict[str, list[float | None]] = {ZERO_SHOT: [0.0, 0.25], "a": [1.0, None], "b": [0.5, 0.75]}


def shown(run: Path) -> tuple[list[object], str]:
    """The zero-shot row and the others, and what was said on stderr."""
    result = call(str(run), "--json")
    (one,) = json.loads(result.stdout)["runs"]
    return [one["matrix"]["zero_shot"], *one["matrix"]["rows"]], result.stderr


@pytest.mark.parametrize("content", ["whole", None, "", "{", "[]", '{"rows": [[1, 1]]}'])
def test_the_exports_are_never_read(content: str | None):
    run = Path(make_run(1))
    for name in ("matrix.json", "metrics.json"):
        if content is None:
            (run / name).unlink()
        elif content != "whole":
            (run / name).write_text(content)
    assert shown(run) == (list(ROWS.values()), "")


@pytest.mark.parametrize(
    ("stage", "left"),
    [("00-zero-shot", [None, *list(ROWS.values())[1:]]), ("01-a", [[0.0, 0.25], [None, None], [0.5, 0.75]])],
)
@pytest.mark.parametrize("content", [None, "{", "[]", '{"row": [1, 1], "sha256": "0"}', "\x00"])
def test_a_damaged_stage_is_named_and_its_scores_are_null(stage: str, left: list[object], content: str | None):
    run = Path(make_run(1))
    done = run / "tasks" / stage / "done.json"
    done.unlink() if content is None else done.write_text(content)
    rows, said = shown(run)
    assert rows == left
    assert said.startswith(f"warning: {done} ")
    assert "warning: `clkit doctor runs/x-1` lists all that is damaged" in said


def test_a_damaged_last_stage_leaves_the_run_in_progress():
    run = Path(make_run(1))
    (run / "tasks/02-b/done.json").write_text("{")
    assert shown(run)[0] == list(ROWS.values())[:2]
    assert "1 of 2 tasks learned" in call(str(run)).stdout


def test_a_stage_that_is_gone_is_named():
    run = Path(make_run(1))
    shutil.rmtree(run / "tasks/01-a")
    assert shown(run)[0] == [[0.0, 0.25], [None, None], [0.5, 0.75]]
    assert "warning: runs/x-1: stage 1 is missing" in shown(run)[1]


@pytest.mark.parametrize("part", ["tasks/01-a/done.json", "tasks/02-b/done.json"])
def test_no_single_bit_makes_a_wrong_number(part: str):
    """Flip the lowest bit of each byte in turn: the right scores are shown, or null."""
    path = Path(make_run(1)) / part
    original = path.read_bytes()
    whole = 0
    for place in range(len(original)):
        path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        matrix, damage, _ = RunFolder(Path("runs/x-1")).scores()
        whole += not damage
        assert (matrix.tasks, matrix.counts) == (["a", "b"], [4, 4])
        for found, right in zip(matrix.rows, [[1.0, None], [0.5, 0.75]], strict=False):
            assert found in (right, [None, None])
    assert whole < len(original) / 2


def test_a_run_without_a_finished_stage():
    run = RunFolder.create("runs/x-1", "name: x\n", {})
    with pytest.raises(RunError, match=r"^runs/x-1: nothing was evaluated so far$"):
        call()
    (run.start_stage(1, "a") / "done.json").write_text("{")
    with pytest.raises(RunError, match=r"^runs/x-1/tasks/01-a/done.json cannot be read"):
        call()


def test_two_stages_of_one_number_are_refused():
    run = Path(make_run(1))
    shutil.copytree(run / "tasks/01-a", run / "tasks/01-x")
    with pytest.raises(RunError, match="the folders of two stages have number 1"):
        call(str(run))


@pytest.mark.parametrize("header", [{"tasks": ["c", "b"]}, {"metric": "f1"}, {"tasks": None}])
def test_stages_of_two_runs_are_not_mixed(header: dict[str, object]):
    run = RunFolder.open(make_run(1))
    payload = run.stages()[2].payload
    (run.stage_folder(2, "b") / "done.json").unlink()
    run.finish_stage(2, "b", {"row": [0.5, 0.5], "matrix": payload["matrix"] | header})
    with pytest.raises(RunError, match="the stages disagree about the run's tasks"):
        call(str(run.path))


@pytest.mark.parametrize("payload", [{}, {"row": [0.5]}, {"row": [0.5], "matrix": 7}, {"row": 7, "matrix": {}}])
def test_what_another_version_wrote_is_one_line(payload: dict[str, object]):
    run = RunFolder.create("runs/x-1", "name: x\n", {})
    run.start_stage(1, "a")
    run.finish_stage(1, "a", payload)
    with pytest.raises(RunError, match=r"runs/x-1: the scores in the done.json of the stages do not fit"):
        call()


def test_test_data_that_changed_on_the_way_are_noted_once_they_were_tested_twice():
    run = RunFolder.create("runs/x-1", "name: x\n", {})
    header = AccuracyMatrix(tasks=["a", "b"], counts=[4, 4]).header()
    for index, (name, tested) in enumerate([("a", {"tasks.a.test": "1"}), ("b", {"tasks.a.test": "2", "b": "3"})]):
        run.start_stage(index + 1, name)
        counts = {"counts": [4 - index, 4]}
        run.finish_stage(index + 1, name, {"row": [0.5, None], "matrix": header | counts, "read": tested})
    result = call("--json")
    assert result.stderr == (
        "note: runs/x-1: tasks.a.test changed before stage 2: scores before and after do not compare\n"
    )
    assert json.loads(result.stdout)["runs"][0]["matrix"]["counts"] == [3, 4]
    assert run.read_matrix().counts == [3, 4]


def test_a_damaged_reference_is_refused():
    run, baseline = make_run(1), Path(make_baseline("per_task"))
    (baseline / "tasks/01-b/done.json").write_text("{")
    with pytest.raises(UsageError, match=r"--reference .*01-b/done.json cannot be read.*a run that is whole"):
        call(run, "--reference", str(baseline))


def test_equal_recipes_with_other_tasks_are_not_averaged():
    first, second = make_run(1), make_run(2, tasks="ac")
    with pytest.raises(RunError, match="only runs over the same tasks"):
        call(first, second)


def test_nothing_heavy_is_imported(folder: Path):
    """In a fresh process; the control proves that the probe sees an import where there is one.

    pydantic is not among them: Typer imports it itself as soon as it parses arguments.
    """
    probe = (
        "import sys, typer; from clkit.cli.matrix import matrix; {extra}; app = typer.Typer(); app.command()(matrix); "
        "app(sys.argv[1:], standalone_mode=False); heavy = {{'torch', 'numpy', 'datasets', 'transformers'}}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    runs = [make_run(1), make_run(2), *references("per_task", "multi_task")]
    for extra, found in (("pass", "[]"), ("import numpy", "['numpy']")):
        done = subprocess.run(
            [sys.executable, "-c", probe.format(extra=extra), *runs], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == found
        assert "mean of 2 seeds" in done.stdout


def test_it_says_which_kind_of_head_a_classifier_has():
    shared, per_task = (
        make_run(1, name=heads, recipe=f"objective: {{kind: classification, heads: {heads}}}\n")
        for heads in ("shared", "per_task")
    )
    assert "\none head over the labels of all tasks seen\n" in call(shared).output
    assert "\none head per task: the task is known at test time\n" in call(per_task).output
    together = call(shared, per_task, make_run(1)).output
    assert together.count("head") == together.count(": one head") == 2
    assert f"{per_task}: one head per task" in together
    assert "head" not in call(make_run(2, recipe="objective: {kind: text_to_text}\n")).output
    assert "head" not in call(make_run(3, recipe="objective: 7\n")).output
