"""Which rows are used: seeded draws that stay the same, limits that hold, a validation split that takes its share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.errors import DataError
from clkit.tasks.loading import Draw, carve_validation, gold_labels, infer_labels, limit
from clkit.tasks.source import Columns, ReadRows

LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=60)


def rows(*answers: str | None, missing: tuple[str, ...] = ()) -> ReadRows:
    records = [(f"file.jsonl:{line}", {"text": "text", "label": answer}) for line, answer in enumerate(answers, 1)]
    return ReadRows(records, Columns("text", "label", missing=missing), "file.jsonl")


def test_a_draw_never_changes() -> None:
    # Written down, so that another Python version, platform or release that drew otherwise would be noticed.
    assert Draw(42, "dbpedia", "train").sample(range(100), 5) == [10, 25, 28, 36, 96]
    assert Draw(42, "dbpedia", "test").sample(range(100), 5) != Draw(42, "dbpedia", "train").sample(range(100), 5)


def test_rows_without_a_gold_label_have_no_answer() -> None:
    answers = ("x", None, "", "-", "-1", " ", "y")
    assert rows(*answers).answers == ["x", None, None, "-", "-1", None, "y"]
    assert rows(*answers, missing=("-", "-1")).answers == ["x", None, None, None, None, None, "y"]


@pytest.mark.parametrize("labels", [("-1", "0", "1"), ("-1", "2.5"), ("+", "-"), ("++", "-", "+")])
def test_a_sign_and_minus_one_are_labels_among_their_kin(labels: tuple[str, ...]) -> None:
    assert infer_labels(rows(*labels), range(len(labels)), "t") == tuple(sorted(labels))


@pytest.mark.parametrize("labels", [("-", "yes", "no"), ("-1", "yes", "no"), ("-", "1", "2")])
def test_what_may_say_that_there_is_no_label_is_asked_about(labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=f"^task 't': '{labels[0]}' stands among the labels .* source.missing"):
        infer_labels(rows(*labels), range(3), "t")


def test_an_unknown_label_is_named_with_its_place() -> None:
    with pytest.raises(DataError) as error:
        gold_labels(rows("World", "Sprots"), [0, 1], ("World", "Sports"), "news")
    assert str(error.value) == (
        "file.jsonl:2: unknown label 'Sprots', did you mean 'Sports'? (labels of task 'news': World, Sports)"
    )


def test_labels_are_inferred_sorted() -> None:
    assert infer_labels(rows("b", "a", "b ", "c"), [0, 1, 2], "t") == ("a", "b")


@pytest.mark.parametrize(("answers", "advice"), [([str(n) for n in range(51)], "answers: free"), (["a", "a"], "'a'")])
def test_what_cannot_be_labels_is_refused(answers: list[str], advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        infer_labels(rows(*answers), range(len(answers)), "t")


@given(LABELS, st.integers(1, 70), st.integers(1, 70), st.integers(0, 5))
def test_limits_hold_and_keep_the_order(answers: list[str], per_label: int, per_task: int, seed: int) -> None:
    labels = dict(enumerate(answers))
    kept = limit(range(len(answers)), labels, per_label, per_task, Draw(seed, "t", "train"))
    expected = sum(min(count, per_label) for count in Counter(answers).values())
    assert len(kept) == min(expected, per_task)
    assert kept == sorted(set(kept))
    assert max(Counter(labels[index] for index in kept).values()) <= per_label
    assert kept == limit(range(len(answers)), labels, per_label, per_task, Draw(seed, "t", "train"))


@given(LABELS, st.floats(0.001, 0.999), st.booleans())
def test_validation_is_disjoint_and_stratified(answers: list[str], share: float, stratified: bool) -> None:
    labels = dict(enumerate(answers))
    train, validation = carve_validation(
        range(len(answers)), labels if stratified else None, share, Draw(1, "t", "validation"), "t"
    )
    assert sorted(train + validation) == list(range(len(answers)))
    assert train
    assert len(validation) == min(max(1, round(share * len(answers))), len(answers) - 1)
    if stratified:
        exact = len(validation) / len(answers)
        held_out = Counter(labels[index] for index in validation)
        assert all(abs(held_out[label] - exact * count) < 1 for label, count in Counter(answers).items())


def test_one_row_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="validation_share"):
        carve_validation([0], {0: "a"}, 0.5, Draw(0, "t", "validation"), "t")
