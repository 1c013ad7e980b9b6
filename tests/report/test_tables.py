"""What the terminal shows: it fits, it is plain when piped, and it loses no number silently."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console, RenderableType

from clkit.report.console import make_console
from clkit.report.matrix_tables import matrix_table
from clkit.report.tables import (
    RunMetrics,
    SeedGroup,
    metrics_table,
    runs_table,
    scores_table,
    show_number,
)
from clkit.results.matrix import AccuracyMatrix
from clkit.results.spread import aggregate

ORDER4 = (
    "mnli cb wic copa qqp boolqa rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo".split()  # noqa: SIM905
)


def triangle(tasks: list[str], learned: int | None = None, **changes) -> AccuracyMatrix:
    """A matrix as of `evaluation.tasks: seen`, whose first score is 100 percent, the widest there is."""
    size = len(tasks)
    rows = [[1 - 0.01 * (i - j) if j <= i else None for j in range(size)] for i in range(size)]
    values = {"counts": [500] * size, "zero_shot": [0.125] * size, "rows": rows[:learned], **changes}
    return AccuracyMatrix(tasks=tasks, **values)


def shown(runs: dict[str, AccuracyMatrix], role: str = "") -> list[RunMetrics]:
    return [RunMetrics(name, matrix.metrics(), matrix.metric, role) for name, matrix in runs.items()]


def rendered(renderable: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_four_tasks_in_80_columns():
    matrix = triangle(["dbpedia", "amazon", "yahoo", "agnews"])
    assert rendered(matrix_table(matrix, 80), 80) == [
        "exact_match in percent; a row per task learned, a column per task tested",
        "",
        "               dbpedia  amazon  yahoo  agnews",
        "─────────────────────────────────────────────",
        "zero-shot         12.5    12.5   12.5    12.5",
        "after dbpedia    100.0       –      –       –",
        "after amazon      99.0   100.0      –       –",
        "after yahoo       98.0    99.0  100.0       –",
        "after agnews      97.0    98.0   99.0   100.0",
    ]


def test_tasks_not_learned_yet_have_dashes():
    lines = rendered(matrix_table(triangle(["a", "b"], learned=1), 80), 80)
    assert [line.split() for line in lines[-2:]] == [["after", "a", "100.0", "–"], ["after", "b", "–", "–"]]


def test_no_zero_shot_row():
    assert "zero-shot" not in "\n".join(rendered(matrix_table(triangle(["a", "b"], zero_shot=None), 80), 80))


@pytest.mark.parametrize(("width", "last"), [(200, "100.0"), (100, "100.0"), (80, "100")])
def test_fifteen_tasks(width: int, last: str):
    lines = rendered(matrix_table(triangle(ORDER4), width), width)
    assert len(lines) == 4 + 16  # one table, no line wrapped
    assert not any("…" in line for line in lines)
    assert lines[-1].split()[-1] == last
    if width < 200:
        assert lines[2].split() == [str(number) for number in range(1, 16)]
        assert lines[-1].startswith("15 yahoo")


@pytest.mark.parametrize("width", [40, 80])
def test_what_fits_in_no_way_goes_on_below(width: int):
    tasks = [f"task{index}" for index in range(60)]
    lines = rendered(matrix_table(triangle(tasks), width), width)
    heads = [number for line in lines if re.fullmatch(r"[\d ]+", line) for number in line.split()]
    assert heads == [str(number) for number in range(1, 61)]
    assert not any("…" in line for line in lines)


def test_a_long_name_is_cut_only_as_label():
    lines = rendered(matrix_table(triangle(["a" * 80, "b"]), 80), 80)
    assert lines[-2].split() == ["1", "a" * 21 + "…", "100.0", "–"]


def test_perplexity_is_no_percent():
    matrix = triangle(["a", "b"], metric="perplexity", higher_is_better=False, rows=[[12.5, None], [20.0, 1033.2]])
    lines = rendered(matrix_table(matrix, 80), 80)
    assert lines[0] == "perplexity (lower is better); a row per task learned, a column per task tested"
    assert lines[-1].split() == ["after", "b", "20.00", "1033.2"]
    metrics = rendered(metrics_table(matrix.metrics(), "perplexity"), 80)
    assert [line.split()[:2] for line in metrics if re.match("[a-z_]+  ", line)] == [
        ["metric", "value"],
        ["average_perplexity", "526.60"],
        ["average_perplexity_micro", "526.60"],
        ["bwt", "-7.50"],  # worse, for 12.5 became 20
        ["fwt", "–"],
        ["forgetting", "7.50"],
        ["learning_perplexity", "522.85"],
    ]
    assert metrics[-1] == "perplexity: lower is better; signs read as with accuracies: BWT above 0 is good"


def lower(metric: str, **changes) -> AccuracyMatrix:
    rows = [[2.25, None], [2.375, 1.5]]
    return triangle(["a", "b"], metric=metric, higher_is_better=False, rows=rows, zero_shot=[3.0, 3.5], **changes)


def test_runs_of_perplexity_have_heads_of_their_own():
    lines = rendered(runs_table(shown({"runs/p": lower("perplexity")})), 80)
    assert lines[0].split() == ["average", "micro", "forget-", "learning"]
    assert lines[1].split() == ["run", "perplexity", "average", "BWT", "FWT", "ting", "perplexity"]
    assert lines[3].split() == ["runs/p", "1.94", "1.94", "-0.12", "–", "0.12", "1.88"]
    assert " ".join(lines[4:]) == "perplexity: lower is better; signs read as with accuracies: BWT above 0 is good"
    assert "better" not in "\n".join(rendered(runs_table(shown({"runs/x": triangle(["a", "b"])})), 80))


def test_runs_of_several_metrics_say_which_is_whose():
    runs = {"runs/p": lower("perplexity"), "runs/l": lower("loss"), "runs/f": triangle(["a", "b"], metric="macro_f1")}
    lines = rendered(runs_table(shown(runs)), 80)
    assert lines[1].split()[1] == "score"
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["runs/p", "(perplexity)", "1.94"],
        ["runs/l", "(loss)", "1.938"],
        ["runs/f", "(macro_f1)", "99.5"],
    ]
    assert lines[6].startswith("perplexity and loss: lower is better")


def test_macro_f1_is_no_accuracy():
    matrix = triangle(["a", "b"], metric="macro_f1")
    assert rendered(runs_table(shown({"runs/f": matrix})), 80)[1].split()[1:3] == ["macro", "F1"]
    lines = rendered(metrics_table(matrix.metrics(), "macro_f1", shown({"runs/f": matrix}, "alone")), 80)
    assert any(line.startswith("average_macro_f1 ") for line in lines)
    assert lines[-1].endswith("average macro F1 of runs/f")


@pytest.mark.parametrize("metric", ["perplexity", "loss"])
def test_wide_numbers_fit_80_columns(metric: str):
    size = 15
    rows = [[1234.5 if j <= i else None for j in range(size)] for i in range(size)]
    zero_shot = [98765.4321] * size
    matrix = triangle(ORDER4, metric=metric, higher_is_better=False, rows=rows, zero_shot=zero_shot)
    rendered(matrix_table(matrix, 80), 80)
    rendered(metrics_table(matrix.metrics(), metric), 80)
    one, two = matrix, triangle(ORDER4, metric=metric, higher_is_better=False, rows=rows[::-1][::-1], zero_shot=None)
    lines = rendered(runs_table(shown({"runs/long-name-of-a-run-42": one, "runs/other": two})), 80)
    assert not any("…" in line for line in lines)


def test_scores_of_a_test_say_what_is_better():
    table = scores_table({"a": ({"perplexity": 7.389, "loss": 2.0}, 1200), "b": ({"exact_match": 0.5}, 8)})
    lines = rendered(table, 80)
    assert lines[0].split() == ["task", "perplexity", "loss", "exact", "match", "examples"]
    assert [line.split() for line in lines[1:3]] == [["a", "7.39", "2.000", "–", "1,200"], ["b", "–", "–", "50.0", "8"]]
    assert " ".join(lines[3:]) == "perplexity and loss: lower is better"


def test_metrics_show_the_formula_or_the_reason():
    lines = rendered(metrics_table(triangle(["a", "b"]).metrics(), "exact_match"), 80)
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["bwt"].split(maxsplit=2)[1:] == ["-1.0", "mean_{j<T} (R[T][j] - R[j][j])"]
    assert by_name["fwt"].split(maxsplit=2)[1:] == ["–", "R[1][2] was not measured: 'b' after 'a'"]


def test_runs_side_by_side_with_the_mean_over_seeds():
    runs = {f"runs/x-{seed}": triangle(["a", "b"], rows=[[1.0, 0.5], [seed / 10, 1.0]]) for seed in (6, 8)}
    groups = [SeedGroup(list(runs), aggregate(list(runs.values())))]
    lines = rendered(runs_table(shown(runs), groups), 80)
    first_and_bwt = [re.split(r"\s{2,}", line)[:4] for line in lines[3:] if line]
    assert first_and_bwt == [
        ["runs/x-6", "80.0", "80.0", "-40.0"],
        ["runs/x-8", "90.0", "90.0", "-20.0"],
        ["mean of 2 seeds", "85.0", "85.0", "-30.0"],
        ["± std", "7.1", "7.1", "14.1"],
    ]


def test_an_interval_needs_three_seeds_and_is_cut_where_the_metric_ends():
    runs = {f"runs/x-{seed}": triangle(["a", "b"], rows=[[1.0, 0.5], [seed / 10, 1.0]]) for seed in (6, 8, 10)}
    groups = [SeedGroup(list(runs), aggregate(list(runs.values())))]
    lines = rendered(runs_table(shown(runs), groups), 80)
    ends = [re.split(r"\s{2,}", line)[:4] for line in lines if "interval" in line]
    assert ends == [
        ["95 % interval from", "65.2", "65.2", "-69.7"],
        ["95 % interval to", "100.0", "100.0", "+29.7"],
        ["intervals are cut where a metric's range ends"],
    ]


def test_means_of_scores_are_warm_and_deviations_are_not():
    runs = {f"runs/x-{seed}": triangle(["a", "b"], rows=[[1.0, 0.5], [seed / 10, 1.0]]) for seed in (6, 8)}
    groups = [SeedGroup(list(runs), aggregate(list(runs.values())))]
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="256", no_color=False)
    console.print(runs_table(shown(runs), groups))
    by_label = {line.split()[0].strip("\x1b[1m"): line for line in console.file.getvalue().splitlines() if line.strip()}
    assert by_label["runs/x-6"].count("48;5;") == 3  # average, micro average and learning accuracy; not BWT
    assert "48;5;" not in by_label["±"]


def test_references_stand_below_what_is_compared_with_them():
    together = AccuracyMatrix(tasks=["a", "b"], counts=[500] * 2, rows=[[0.9, 0.8]], protocol="multi_task")
    references = shown({"runs/mt": together}, "upper bound (multi-task)")
    run = triangle(["a", "b"], rows=[[1.0, None], [0.5, 1.0]])
    lines = rendered(metrics_table(run.metrics(), "exact_match", references), 80)
    assert re.split(r"\s{2,}", lines[-1]) == ["upper bound (multi-task)", "85.0", "average accuracy of runs/mt"]
    lines = rendered(runs_table(shown({"runs/x": run}), (), references), 80)
    row = next(line for line in lines if line.startswith("upper bound"))
    assert re.split(r"\s{2,}", row)[1:3] == ["85.0", "85.0"]


@pytest.mark.parametrize(
    ("protocol", "rows", "zero_shot", "table"),
    [
        (
            "multi_task",
            [[1.0, 0.5]],
            [0.125, 0.0],
            [["zero-shot", "together"], ["a", "12.5", "100.0"], ["b", "0.0", "50.0"]],
        ),
        ("multi_task", [], None, [["together"], ["a", "–"], ["b", "–"]]),
        ("per_task", [[1.0, None]], [0.0, 0.0], [["zero-shot", "alone"], ["a", "0.0", "100.0"], ["b", "0.0", "–"]]),
        ("zero_shot", [], [0.125, 0.0], [["zero-shot"], ["a", "12.5"], ["b", "0.0"]]),
    ],
)
def test_a_baseline_has_a_row_per_task(protocol: str, rows: list, zero_shot: list | None, table: list[list[str]]):
    matrix = AccuracyMatrix(tasks=["a", "b"], counts=[8, 8], zero_shot=zero_shot, rows=rows, protocol=protocol)
    lines = rendered(matrix_table(matrix, 80), 80)
    assert lines[0].startswith("exact_match in percent; ")
    assert [line.split() for line in lines[2:] if not line.startswith("─")] == table


def test_fifteen_tasks_of_a_baseline_keep_their_names():
    matrix = AccuracyMatrix(tasks=ORDER4, counts=[500] * 15, rows=[[0.5] * 15], protocol="multi_task")
    lines = rendered(matrix_table(matrix, 80), 80)
    assert [line.split()[0] for line in lines[4:]] == ORDER4


def test_names_are_no_markup():
    lines = rendered(runs_table(shown({"runs/[bold]x[/]:smile:": triangle(["a", "b"])})), 80)
    assert "[bold]x[/]:smile:" in "".join(line.split()[0] for line in lines if line)


@pytest.mark.parametrize(
    ("value", "arguments", "shown"),
    [
        (None, {"fraction": True}, "–"),
        (0.0, {"fraction": True, "signed": True}, "0.0"),
        (-0.0004, {"fraction": True, "signed": True}, "0.0"),
        (0.051, {"fraction": True, "signed": True}, "+5.1"),
        (-0.051, {"fraction": True}, "-5.1"),
        (0.996, {"fraction": True, "decimals": 0}, "100"),
        (12.34, {"fraction": False}, "12.3"),
        (1e304, {"fraction": False}, "1.0e+304"),
        (-2.5e6, {"fraction": False, "signed": True}, "-2.5e+06"),
    ],
)
def test_show_number(value: float | None, arguments: dict, shown: str):
    assert show_number(value, **arguments) == shown


class TestConsole:
    @pytest.fixture(autouse=True)
    def no_forcing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)

    def test_piped_output_is_plain(self):
        file = io.StringIO()
        make_console(file).print(matrix_table(triangle(["a", "b"]), 80))
        assert "\x1b" not in file.getvalue()

    def test_a_terminal_gets_emphasis_and_no_color_takes_the_color(self, monkeypatch: pytest.MonkeyPatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm-256color")
        outputs = []
        for no_color in ("", "1"):
            monkeypatch.setenv("NO_COLOR", no_color)
            file = Terminal()
            make_console(file).print(matrix_table(triangle(["a", "b"]), 80))
            outputs.append(file.getvalue())
        assert re.search(r"\x1b\[1;38;[\d;]+48;[\d;]+m100\.0", outputs[0])
        assert "\x1b[1m100.0" in outputs[1]
        assert "[38;" not in outputs[1]

    @pytest.mark.parametrize(("columns", "width"), [(None, 100), ("72", 72), ("wide", 100), ("0", 100)])
    def test_piped_width(self, monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        assert make_console(io.StringIO()).width == width
