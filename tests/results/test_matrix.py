"""The matrix and its metrics: closed forms by hand, an independent numpy implementation, and the defects of peers."""

from __future__ import annotations

import json
import math
import re
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import METRICS, split_forgetting
from clkit.results.spread import aggregate

# Three tasks, every cell measured; all expected numbers below are worked out by hand from these.
ZERO_SHOT = [0.1, 0.2, 0.3]
ROWS = [[0.9, 0.3, 0.2], [0.95, 0.8, 0.5], [0.6, 0.7, 0.85]]


def example(**changes) -> AccuracyMatrix:
    given_values = {"tasks": ["a", "b", "c"], "counts": [100, 200, 700], "zero_shot": ZERO_SHOT, "rows": ROWS}
    return AccuracyMatrix(**{**given_values, **changes})


def values(matrix: AccuracyMatrix, **arguments) -> dict[str, float | None]:
    return {name: metric.value for name, metric in matrix.metrics(**arguments).items()}


@st.composite
def full_matrices(draw: st.DrawFn) -> AccuracyMatrix:
    size = draw(st.integers(2, 6))
    row = st.lists(st.floats(0, 1), min_size=size, max_size=size)
    return AccuracyMatrix(
        tasks=[f"task{index}" for index in range(size)],
        counts=draw(st.lists(st.integers(1, 10_000), min_size=size, max_size=size)),
        zero_shot=draw(row),
        rows=draw(st.lists(row, min_size=size, max_size=size)),
        metric=draw(st.sampled_from(["exact_match", "perplexity"])),
        higher_is_better=draw(st.booleans()),
    )


class TestMetrics:
    def test_closed_forms(self):
        assert values(example(), reference=[0.92, 0.9, 0.85]) == pytest.approx(
            {
                "average_accuracy": (0.6 + 0.7 + 0.85) / 3,
                "average_accuracy_micro": (60 + 140 + 595) / 1000,
                "bwt": ((0.6 - 0.9) + (0.7 - 0.8)) / 2,
                "fwt": ((0.3 - 0.2) + (0.5 - 0.3)) / 2,
                "forgetting": ((0.95 - 0.6) + (0.8 - 0.7)) / 2,
                "learning_accuracy": (0.9 + 0.8 + 0.85) / 3,
                "intransigence": ((0.92 - 0.9) + (0.9 - 0.8) + 0.0) / 3,
            }
        )

    def test_lower_is_better_turns_the_differences_round_and_says_so(self):
        rows = [[10.0, 50.0, 70.0], [8.0, 20.0, 40.0], [16.0, 25.0, 12.0]]
        matrix = example(metric="perplexity", higher_is_better=False, zero_shot=[90.0, 60.0, 80.0], rows=rows)
        metrics = matrix.metrics(reference=[9.0, 18.0, 12.0])
        assert metrics["bwt"].value == pytest.approx(((10 - 16) + (20 - 25)) / 2)
        assert metrics["fwt"].value == pytest.approx(((60 - 50) + (80 - 40)) / 2)
        assert metrics["forgetting"].value == pytest.approx(((16 - 8) + (25 - 20)) / 2)
        assert metrics["intransigence"].value == pytest.approx(((10 - 9) + (20 - 18) + 0) / 3)
        assert metrics["bwt"].formula == "mean_{j<T} (R[j][j] - R[T][j])"
        assert "min" in metrics["forgetting"].formula

    def test_tested_on_seen_tasks_only(self):
        rows = [[0.9, None, None], [0.95, 0.8, None], [0.6, 0.7, 0.85]]
        metrics = example(rows=rows).metrics()
        assert metrics["fwt"].value is None
        assert metrics["fwt"].note == "R[1][2] was not measured: 'b' after 'a' (evaluation.tasks: all)"
        others = {name: metric for name, metric in metrics.items() if name != "fwt"}
        assert all(metric.value is not None and metric.note is None for metric in others.values())

    def test_tested_at_the_end_only(self):
        nothing = [None, None, None]
        metrics = example(zero_shot=None, rows=[nothing, nothing, ROWS[-1]]).metrics()
        assert {name for name, metric in metrics.items() if metric.value is not None} == {
            "average_accuracy",
            "average_accuracy_micro",
        }
        assert metrics["bwt"].note == "R[1][1] was not measured: 'a' after 'a'"

    def test_without_zero_shot_row(self):
        assert example(zero_shot=None).metrics()["fwt"].note == "no zero-shot row (evaluation.zero_shot)"

    def test_hole_in_the_zero_shot_row_names_the_cell(self):
        note = example(zero_shot=[0.1, 0.2, None]).metrics()["fwt"].note
        assert note == "R[0][3] was not measured: 'c' before training"

    def test_hole_in_the_reference_names_the_cell(self):
        note = example().metrics(reference=[0.9, None, 0.9])["intransigence"].note
        assert note == "R*[2] was not measured: 'b' learned alone"

    def test_one_task_has_nothing_to_forget(self):
        metrics = AccuracyMatrix(tasks=["a"], counts=[5], zero_shot=[0.1], rows=[[0.9]]).metrics()
        assert metrics["average_accuracy"].value == metrics["learning_accuracy"].value == 0.9
        for name in ("bwt", "fwt", "forgetting"):
            assert metrics[name].value is None
            assert metrics[name].note == "needs two tasks or more"

    @pytest.mark.parametrize("learned", [0, 1, 2])
    def test_unfinished_sequence_has_no_metrics(self, learned: int):
        matrix = example(rows=ROWS[:learned])
        for metric in matrix.metrics().values():
            assert metric.value is None
            assert metric.note == f"run in progress: {learned} of 3 tasks learned"

    def test_intransigence_only_with_a_reference(self):
        assert list(example().metrics()) == [*METRICS][:-2]
        assert list(example().metrics(reference=[0.9] * 3)) == [*METRICS][:-1]
        assert [*METRICS][-2:] == ["intransigence", "upper_bound_distance"]

    @given(full_matrices())
    def test_agrees_with_an_independent_implementation(self, matrix: AccuracyMatrix):
        scores = np.array(matrix.rows)
        size = len(scores)
        sign = 1 if matrix.higher_is_better else -1
        diagonal, last = np.diag(scores), scores[-1]
        best = np.array([(sign * scores[task : size - 1, task]).max() for task in range(size - 1)])
        expected = {
            "average_accuracy": last.mean(),
            "average_accuracy_micro": np.average(last, weights=matrix.counts),
            "bwt": sign * (last - diagonal)[:-1].mean(),
            "fwt": sign * (np.diag(scores, k=1) - np.array(matrix.zero_shot)[1:]).mean(),
            "forgetting": (best - sign * last[:-1]).mean(),
            "learning_accuracy": diagonal.mean(),
        }
        assert values(matrix) == pytest.approx(expected, abs=1e-12)

    @given(full_matrices())
    def test_average_is_what_was_learned_plus_what_came_back(self, matrix: AccuracyMatrix):
        got = values(matrix)
        sign = 1 if matrix.higher_is_better else -1
        share = (len(matrix.tasks) - 1) / len(matrix.tasks)
        assert got["average_accuracy"] == pytest.approx(got["learning_accuracy"] + sign * share * got["bwt"], abs=1e-9)

    @given(full_matrices())
    def test_forgetting_is_at_least_the_loss_since_learning(self, matrix: AccuracyMatrix):
        got = values(matrix)
        assert got["forgetting"] >= -got["bwt"] - 1e-9

    @given(full_matrices(), st.integers(1, 50))
    def test_equal_counts_make_micro_and_macro_equal(self, matrix: AccuracyMatrix, count: int):
        matrix.counts = [count] * len(matrix.tasks)
        got = values(matrix)
        assert got["average_accuracy_micro"] == pytest.approx(got["average_accuracy"], abs=1e-12)


class TestDefectsOfPeers:
    def test_missing_cell_is_not_zero(self):
        """EasyCL and mammoth fill missing cells with 0.0, which drags the mean down."""
        metrics = example(rows=[*ROWS[:2], [0.6, None, 0.85]]).metrics()
        assert metrics["average_accuracy"].value is None
        assert metrics["average_accuracy"].note == "R[3][2] was not measured: 'b' after 'c'"

    def test_measured_zero_is_a_score(self):
        assert values(example(rows=[*ROWS[:2], [0.0, 0.0, 0.0]]))["average_accuracy"] == 0.0

    def test_fwt_subtracts_the_measured_zero_shot_row(self):
        """SAPT subtracts one constant for every task."""
        moved = example(zero_shot=[0.1, 0.0, 0.3])
        assert values(moved)["fwt"] == pytest.approx(values(example())["fwt"] + 0.2 / 2)

    def test_bwt_divides_by_the_tasks_before_the_last(self):
        """SAPT divides by T, so that two tasks lose only half of what is lost."""
        matrix = AccuracyMatrix(tasks=["a", "b"], counts=[1, 1], rows=[[1.0, None], [0.5, 1.0]])
        assert values(matrix)["bwt"] == -0.5

    def test_forgetting_leaves_the_final_row_out_of_its_maximum(self):
        """mammoth's maximum includes the final row, so that forgetting cannot be negative."""
        matrix = AccuracyMatrix(tasks=["a", "b"], counts=[1, 1], rows=[[0.5, None], [0.75, 1.0]])
        assert values(matrix)["forgetting"] == -0.25


class TestBaselines:
    """The same three tasks, not learned one after another."""

    def test_learned_together(self):
        matrix = example(protocol="multi_task", rows=[[0.9, 0.8, 0.85]])
        metrics = matrix.metrics(reference=[1.0] * 3, upper_bound=[0.95, 0.8, 0.95])
        assert {name: metric.value for name, metric in metrics.items() if metric.value is not None} == pytest.approx(
            {
                "average_accuracy": (0.9 + 0.8 + 0.85) / 3,
                "average_accuracy_micro": (90 + 160 + 595) / 1000,
                "upper_bound_distance": (0.05 + 0.0 + 0.1) / 3,
            }
        )
        assert metrics["average_accuracy"].formula == "mean_j R[T][j]"
        for name in ("bwt", "fwt", "forgetting", "learning_accuracy", "intransigence"):
            assert metrics[name].note == "all learned together (protocol: multi_task)"

    def test_learned_alone(self):
        rows = [[0.9, None, None], [None, 0.8, None], [None, None, 0.85]]
        metrics = example(protocol="per_task", rows=rows).metrics()
        mean = pytest.approx((0.9 + 0.8 + 0.85) / 3)
        assert (metrics["average_accuracy"].value, metrics["average_accuracy"].formula) == (mean, "mean_j R*[j]")
        assert (metrics["learning_accuracy"].value, metrics["learning_accuracy"].formula) == (mean, "mean_j R[j][j]")
        assert metrics["average_accuracy_micro"].value == pytest.approx((90 + 160 + 595) / 1000)
        assert metrics["average_accuracy_micro"].formula == "sum_j n[j] R*[j] / sum_j n[j]"
        for name in ("bwt", "fwt", "forgetting"):
            assert (metrics[name].value, metrics[name].note) == (None, "each learned alone (protocol: per_task)")

    def test_learned_not_at_all(self):
        metrics = example(protocol="zero_shot", rows=[]).metrics()
        assert metrics["average_accuracy"].value == pytest.approx((0.1 + 0.2 + 0.3) / 3)
        assert metrics["average_accuracy"].formula == "mean_j R[0][j]"
        assert metrics["average_accuracy_micro"].value == pytest.approx((10 + 40 + 210) / 1000)
        for name in ("bwt", "fwt", "forgetting", "learning_accuracy"):
            assert (metrics[name].value, metrics[name].note) == (None, "nothing was learned (protocol: zero_shot)")

    def test_distance_to_the_upper_bound(self):
        metric = example().metrics(upper_bound=[0.9, 0.8, 0.8])["upper_bound_distance"]
        assert metric.value == pytest.approx((0.9 + 0.8 + 0.8) / 3 - (0.6 + 0.7 + 0.85) / 3)
        assert metric.formula == "mean_j (U[j] - R[T][j])"
        rows = [[10.0, 50.0, 70.0], [8.0, 20.0, 40.0], [16.0, 25.0, 12.0]]
        lower = example(metric="perplexity", higher_is_better=False, rows=rows)
        metric = lower.metrics(upper_bound=[9.0, 18.0, 12.0])["upper_bound_distance"]
        assert (metric.value, metric.formula) == (pytest.approx((7 + 7 + 0) / 3), "mean_j (R[T][j] - U[j])")

    def test_hole_in_the_upper_bound_names_the_cell(self):
        note = example().metrics(upper_bound=[0.9, None, 0.9])["upper_bound_distance"].note
        assert note == "U[2] was not measured: 'b' learned together"

    @pytest.mark.parametrize(
        ("changes", "phrase"),
        [
            ({"protocol": "multi_task", "rows": []}, "0 of 3 tasks learned"),
            ({"protocol": "per_task", "rows": [[0.9, None, None]]}, "1 of 3 tasks learned"),
            ({"protocol": "zero_shot", "rows": [], "zero_shot": None}, "0 of 3 tasks tested"),
        ],
    )
    def test_unfinished(self, changes: dict, phrase: str):
        matrix = example(**changes)
        assert matrix.in_progress == f"run in progress: {phrase}"
        assert matrix.metrics()["average_accuracy"].note == matrix.in_progress
        assert matrix.outcome[1:] == [None, None]

    def test_finished(self):
        alone = [[0.9, None, None], [None, 0.0, None], [None, None, 0.85]]
        for protocol, rows, outcome in (
            ("multi_task", [[0.9, 0.8, 0.85]], [0.9, 0.8, 0.85]),
            ("per_task", alone, [0.9, 0.0, 0.85]),
            ("zero_shot", [], ZERO_SHOT),
            ("sequential", ROWS, ROWS[-1]),
        ):
            matrix = example(protocol=protocol, rows=rows)
            assert matrix.in_progress is None
            assert matrix.outcome == outcome
            with pytest.raises(ValueError, match=rf"all rows are there \(protocol: {protocol}, 3 tasks\)"):
                matrix.add_row([None] * 3)

    def test_a_model_of_one_task_has_no_other_score(self):
        with pytest.raises(ValueError, match=r"rows\[1\]: has scores on other tasks than 'b' \(protocol: per_task\)"):
            example(protocol="per_task", rows=[[0.9, None, None], [0.0, 0.8, None]])


class TestSplitForgetting:
    def test_by_hand(self):
        """Of task a 0.3 of the answers end outside its labels, and 0.05 did at its best; of b none, and 0.1 did."""
        rows = [[0.0, None, None], [0.05, 0.1, None], [0.3, 0.0, 0.1]]
        found = split_forgetting(example(), example(rows=rows, metric="outside_labels", zero_shot=None))
        assert found["forgetting_outside_labels"].value == pytest.approx(fmean([0.3 - 0.05, 0.0 - 0.1]))
        assert found["forgetting_among_labels"].value == pytest.approx(fmean([0.95 - 0.6 - 0.25, 0.8 - 0.7 + 0.1]))

    @given(full_matrices(), st.integers(0, 100))
    def test_the_parts_are_the_whole(self, matrix: AccuracyMatrix, percent: int):
        matrix.higher_is_better = True
        shares = [[(1 - score) * percent / 100 for score in row] for row in matrix.rows]
        outside = AccuracyMatrix(matrix.tasks, matrix.counts, "outside_labels", higher_is_better=False, rows=shares)
        parts = [metric.value for metric in split_forgetting(matrix, outside).values()]
        forgetting = values(matrix)["forgetting"]
        assert sum(parts) == pytest.approx(forgetting, abs=1e-12)
        assert parts[0] == pytest.approx(forgetting * percent / 100, abs=1e-12)

    def test_one_task_forgets_nothing(self):
        one = AccuracyMatrix(["a"], [1], rows=[[1.0]])
        assert {metric.note for metric in split_forgetting(one, one).values()} == {"needs two tasks or more"}


class TestShape:
    def test_json_round_trip(self):
        matrix = example(rows=[[0.9, None, None]])
        assert AccuracyMatrix.from_json(json.loads(json.dumps(matrix.to_json()))) == matrix
        assert list(matrix.to_json()) == [
            "protocol", "tasks", "metric", "higher_is_better", "zero_shot", "rows", "counts", "chance",
        ]  # fmt: skip

    def test_without_a_protocol_it_is_a_sequence(self):
        data = example().to_json()
        del data["protocol"]
        assert AccuracyMatrix.from_json(data) == example()

    def test_add_row(self):
        matrix = example(rows=[])
        for row in ROWS:
            assert matrix.in_progress
            matrix.add_row(row)
        assert matrix == example()
        assert matrix.in_progress is None
        with pytest.raises(ValueError, match="all rows are there"):
            matrix.add_row(ROWS[0])

    def test_a_row_is_copied(self):
        row = [0.1, 0.2, 0.3]
        matrix = example(rows=[])
        matrix.add_row(row)
        row[0] = 0.9
        assert matrix.rows == [[0.1, 0.2, 0.3]]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"tasks": []}, "tasks: one or more names"),
            ({"tasks": ["a", "a", "c"]}, "each of them once"),
            ({"tasks": "abc"}, "tasks: needs a list of names"),
            ({"counts": [1, 2]}, "counts: needs 3 numbers"),
            ({"counts": [1, 2, 0]}, "each 1 or more"),
            ({"counts": [1, 2, 3.0]}, "counts: needs a list of whole numbers"),
            ({"metric": None}, "metric must be a name"),
            ({"higher_is_better": 1}, "higher_is_better true or false"),
            ({"rows": [*ROWS, ROWS[0]]}, "at most 3 rows"),
            ({"rows": None}, "rows: needs a list"),
            ({"rows": [[0.1, 0.2]]}, r"rows\[0\]: needs a list of 3 scores"),
            ({"rows": [ROWS[0], [0.1, 0.2, 97.5]]}, r"rows\[1\]: the exact_match on 'c' must be between 0 and 1"),
            ({"rows": [[0.1, -0.2, 0.3]]}, "on 'b' must be between 0 and 1, got -0.2"),
            ({"rows": [[0.1, math.nan, 0.3]]}, "'b' must be a number or null, got nan"),
            ({"rows": [[0.1, True, 0.3]]}, "must be a number or null, got True"),
            ({"rows": [[0.1, "0.2", 0.3]]}, "must be a number or null, got '0.2'"),
            ({"zero_shot": [0.1]}, "zero_shot: needs a list of 3 scores"),
            ({"extra": 1}, r"unknown key 'extra' \(known keys: protocol, tasks, metric"),
            ({"protocol": "joint"}, "protocol must be one of sequential, multi_task, per_task, zero_shot, got 'joint'"),
            ({"protocol": "multi_task"}, r"at most 1 rows \(protocol: multi_task\)"),
        ],
    )
    def test_from_json_refuses(self, change: dict, message: str):
        with pytest.raises(ValueError, match=message):
            AccuracyMatrix.from_json({**example().to_json(), **change})

    @pytest.mark.parametrize("key", ["tasks", "metric", "higher_is_better", "zero_shot", "rows", "counts"])
    def test_from_json_needs_every_key(self, key: str):
        data = example().to_json()
        del data[key]
        with pytest.raises(ValueError, match=f"the key '{key}' is missing"):
            AccuracyMatrix.from_json(data)

    def test_from_json_refuses_a_list(self):
        with pytest.raises(ValueError, match="must be a JSON object"):
            AccuracyMatrix.from_json([])

    def test_perplexity_may_exceed_one_but_not_be_negative(self):
        assert not example(metric="perplexity", rows=[[12.0, None, None]]).is_fraction
        with pytest.raises(ValueError, match="must be 0 or more"):
            example(metric="perplexity", rows=[[-1.0, None, None]])

    def test_reference_must_fit(self):
        with pytest.raises(ValueError, match="reference: needs a list of 3 scores"):
            example().metrics(reference=[0.5])


class TestAggregate:
    @staticmethod
    def ending_in(*finals: float) -> list[AccuracyMatrix]:
        return [AccuracyMatrix(tasks=["a"], counts=[10], rows=[[final]]) for final in finals]

    def test_one_seed_has_neither_deviation_nor_interval(self):
        one = aggregate(self.ending_in(0.7))["average_accuracy"]
        assert (one.n, one.mean, one.std, one.interval) == (1, 0.7, None, None)

    def test_two_seeds(self):
        two = aggregate(self.ending_in(0.6, 0.8))["average_accuracy"]
        assert two.mean == pytest.approx(0.7)
        assert two.std == pytest.approx(math.sqrt(0.02))  # n - 1, not n
        assert two.half == pytest.approx(12.7062 * math.sqrt(0.02) / math.sqrt(2), abs=1e-5)
        assert two.interval is None  # two say nothing of their spread

    @pytest.mark.parametrize(
        ("metric", "finals", "ends"),
        [
            ("exact_match", (0.99, 0.9, 0.98), (None, 1.0)),
            ("exact_match", (0.0, 0.1, 0.0), (0.0, None)),
            ("loss", (0.1, 0.9, 0.2), (0.0, None)),
            ("loss", (5.0, 9.0, 8.0), (None, None)),
        ],
    )
    def test_an_interval_is_cut_where_the_metric_ends(self, metric: str, finals: tuple[float, ...], ends):
        runs = [AccuracyMatrix(["a"], [10], metric, metric != "loss", rows=[[final]]) for final in finals]
        found = aggregate(runs)["average_accuracy"]
        assert found.interval is not None
        half = 4.30265 * stdev(finals) / math.sqrt(3)
        whole = (fmean(finals) - half, fmean(finals) + half)
        assert found.interval[:2] == pytest.approx(
            [measured if end is None else end for measured, end in zip(whole, ends, strict=True)], abs=1e-5
        )
        assert found.interval.cut == found.to_json()["interval_cut"] == any(end is not None for end in ends)

    def test_differences_of_scores_reach_below_zero(self):
        runs = [AccuracyMatrix(["a", "b"], [9, 9], rows=[[1.0, None], [end, 1.0]]) for end in (0.0, 0.0, 0.3)]
        bwt = aggregate(runs)["bwt"].interval
        assert bwt is not None
        assert (bwt.low, bwt.cut) == (-1.0, True)
        assert -0.9 < bwt.high < 0

    # Quantiles of Student's t as printed in statistical tables.
    @pytest.mark.parametrize(("n", "quantile"), [(3, 4.3027), (5, 2.7764), (11, 2.2281), (12, 2.2010), (31, 2.0423)])
    def test_interval_follows_students_t(self, n: int, quantile: float):
        finals = [0.4 + 0.01 * index for index in range(n)]
        many = aggregate(self.ending_in(*finals))["average_accuracy"]
        half = quantile * np.std(finals, ddof=1) / math.sqrt(n)
        assert many.interval == pytest.approx((fmean(finals) - half, fmean(finals) + half, False), abs=1e-5)

    def test_missing_metric_has_no_mean(self):
        unfinished = example(rows=ROWS[:2])
        one = aggregate([example(), unfinished])["bwt"]
        assert one.mean is None
        assert one.note == "missing in 1 of 2 runs: run in progress: 2 of 3 tasks learned"

    def test_other_tasks_cannot_be_averaged(self):
        with pytest.raises(ValueError, match="only runs over the same tasks"):
            aggregate([example(), example(tasks=["a", "b", "d"])])

    def test_one_reference_for_all_seeds(self):
        means = aggregate(self.ending_in(0.6, 0.8), reference=[0.9], upper_bound=[1.0])
        assert means["intransigence"].mean == pytest.approx(0.2)
        assert means["intransigence"].std == pytest.approx(math.sqrt(0.02))
        assert means["upper_bound_distance"].mean == pytest.approx(0.3)

    def test_no_run_at_all(self):
        with pytest.raises(ValueError, match="only runs"):
            aggregate([])


def test_to_pandas_keeps_scores_names_and_gaps():
    matrix = AccuracyMatrix(["a", "b"], [10, 10], zero_shot=[0.1, 0.2], rows=[[0.9, None], [0.5, 0.8]])
    table = matrix.to_pandas()
    assert list(table.index) == ["zero-shot", "after a", "after b"]
    assert list(table.columns) == ["a", "b"]
    assert table.loc["after b", "a"] == 0.5
    assert math.isnan(table.loc["after a", "b"])
    assert {dtype.kind for dtype in table.dtypes} == {"f"}


@pytest.mark.parametrize("protocol", ["sequential", "multi_task", "per_task", "zero_shot"])
def test_to_pandas_of_a_run_without_scores(protocol: str):
    assert AccuracyMatrix(["a", "b"], [10, 10], protocol=protocol).to_pandas().shape == (0, 2)


def test_a_notebook_shows_percent_dashes_and_names_as_text():
    shown = AccuracyMatrix(["<b>", "b"], [10, 10], rows=[[0.9, None], [0.5, 0.8]])._repr_html_()
    assert re.findall(r"<td[^>]*>(.*?)</td>", shown) == ["90.0", "–", "50.0", "80.0"]
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    gap = re.search(r"#\w+_row0_col1 {(.*?)}", shown, re.DOTALL)
    assert gap
    assert "transparent" in gap[1]


def test_a_notebook_shows_perplexities_as_they_are():
    matrix = AccuracyMatrix(["a", "b"], [10, 10], "perplexity", higher_is_better=False, rows=[[2.0, None], [4.0, 3.0]])
    assert "4.00" in matrix._repr_html_()
