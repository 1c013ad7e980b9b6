"""From a recipe to tasks: every source, labels, free-form answers, limits and validation, the same at every call."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.errors import DataError
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.tasks.benchmarks import benchmark_tasks
from clkit.tasks.loading import Draw, carve_validation, gold_labels, infer_labels, limit, load_finished, load_task
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.source import Columns, ReadRows


def files(folder: Path, train: list[Any], test: list[Any] | None = None, missing: Any = (), **task: Any) -> TaskRecipe:
    for name, values in (("train", train), ("test", train if test is None else test)):
        lines = (json.dumps({"text": f"{name} {index}", "label": value}) for index, value in enumerate(values))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"kind": "files", "train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
    source |= {"missing": list(missing)}
    return TaskRecipe.model_validate({"name": "own", "source": source, **task})


def test_a_task_of_files(tmp_path: Path) -> None:
    recipe = files(tmp_path, ["b", "-", "a", None], test=["a", "a ", -1], missing=["-", "-1"])
    task = load_task(recipe, DataSection(), seed=0)
    assert task.labels == ("a", "b")
    assert task.group == "own"
    assert task.train.to_dict() == {
        "text": ["train 0", "train 2"],
        "answer": ["b", "a"],
        "place": [f"{tmp_path / 'train.jsonl'}:{line}" for line in (1, 3)],
    }
    assert task.test["answer"][:] == ["a", "a"]
    assert task.dropped == {"train": 2, "test": 1}
    assert task.validation is None


def test_labels_of_the_recipe_come_first(tmp_path: Path) -> None:
    task = load_task(files(tmp_path, ["b", "a", "-1"], labels=["b", "a", "-1"]), DataSection(), seed=0)
    assert task.labels == ("b", "a", "-1")
    assert len(task.train) == 3


def test_free_answers_stay_as_they_are(tmp_path: Path) -> None:
    task = load_task(files(tmp_path, ["  indented\n", "-1", ""], answers="free"), DataSection(), seed=0)
    assert task.labels is None
    assert task.train["answer"][:] == ["  indented\n", "-1"]
    assert task.dropped == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("answers", "test", "options", "data", "message"),
    [
        (["a", "b"], ["c"], {}, {}, r"test.jsonl:1: unknown label 'c' \(labels of task 'own': a, b\)"),
        (["a", "b"], None, {"labels": ["a", "bb"]}, {}, "train.jsonl:2: unknown label 'b'"),
        (["", None], None, {}, {}, "nothing is left of the train split: 2 rows, none with a gold label"),
        (["a", "b"], [" "], {}, {}, "nothing is left of the test split"),
        (["a", "b"], ["-"], {}, {}, r"test.jsonl:1: unknown label '-' \(.*\); list it in source.missing"),
        ([str(n) for n in range(60)], None, {}, {}, "set answers: free"),
        (["a"], None, {"answers": "free"}, {"train_per_label": 1}, "use data.train_per_task"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path,
    answers: list[Any],
    test: list[Any] | None,
    options: dict[str, Any],
    data: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        load_task(files(tmp_path, answers, test, **options), DataSection(**data), seed=0)


def test_validation_does_not_change_with_the_limits(tmp_path: Path) -> None:
    recipe = files(tmp_path, ["a", "b"] * 50)
    whole = load_task(recipe, DataSection(validation_share=0.1), seed=3)
    small = load_task(recipe, DataSection(validation_share=0.1, train_per_label=4, test_per_task=7), seed=3)
    assert whole.validation is not None
    assert small.validation is not None
    assert whole.validation.to_dict() == small.validation.to_dict()
    assert Counter(small.validation["answer"]) == {"a": 5, "b": 5}
    assert Counter(small.train["answer"]) == {"a": 4, "b": 4}
    assert len(small.test) == 7
    assert not set(small.validation["text"]) & set(whole.train["text"])


def test_the_seed_draws_training_rows_and_the_seed_of_the_data_all_others(tmp_path: Path) -> None:
    recipe = files(tmp_path, ["a", "b"] * 50)
    limits = {"validation_share": 0.1, "train_per_task": 20, "test_per_task": 20}
    one, other, elsewhere = (
        load_task(recipe, DataSection(**limits, seed=data_seed), seed)
        for seed, data_seed in ((1, 42), (2, 42), (1, 43))
    )
    assert one.train.to_dict() != other.train.to_dict()
    assert one.validation is not None
    assert other.validation is not None
    assert elsewhere.validation is not None
    assert one.validation.to_dict() == other.validation.to_dict() != elsewhere.validation.to_dict()
    assert one.test.to_dict() == other.test.to_dict() != elsewhere.test.to_dict()


def test_an_unknown_task_of_the_sample_is_named() -> None:
    recipe = TaskRecipe.model_validate({"name": "x", "source": {"kind": "sample", "task": "topic"}})
    with pytest.raises(DataError, match=r"no task 'topic', did you mean 'topics'\?"):
        load_task(recipe, DataSection(), seed=0)


def test_a_recipe_gives_its_tasks_in_order(cl_benchmark: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "embedded:tiny-t5"},
            "benchmark": {"name": "standard_cl", "order": 3, "folder": str(cl_benchmark)},
            "data": {"train_per_label": 2, "test_per_task": 10},
        }
    )
    tasks = load_tasks(recipe)
    assert [task.name for task in tasks] == ["yahoo", "amazon", "agnews", "dbpedia"]
    for task in tasks:
        assert task.labels is not None
        assert Counter(task.train["answer"]) == dict.fromkeys(task.labels, 2)
        assert len(task.test) == 10


def test_the_same_seed_gives_the_same_rows(cl_benchmark: Path) -> None:
    recipe = benchmark_tasks("standard_cl", 1, cl_benchmark)[0]
    data = DataSection(train_per_task=20, test_per_task=20)
    first, second, other = (load_task(recipe, data, seed) for seed in (1, 1, 2))
    assert first.train.to_dict() == second.train.to_dict() != other.train.to_dict()


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
    assert [*kept] == sorted(set(kept))
    assert max(Counter(labels[index] for index in kept).values()) <= per_label
    assert kept == limit(range(len(answers)), labels, per_label, per_task, Draw(seed, "t", "train"))


@given(LABELS, st.floats(0.001, 0.999), st.booleans())
def test_validation_is_disjoint_and_stratified(answers: list[str], share: float, stratified: bool) -> None:
    labels = dict(enumerate(answers))
    train, validation = carve_validation(
        range(len(answers)), labels if stratified else None, share, Draw(1, "t", "validation"), "t"
    )
    assert sorted([*train, *validation]) == list(range(len(answers)))
    assert train
    assert len(validation) == min(max(1, round(share * len(answers))), len(answers) - 1)
    if stratified:
        exact = len(validation) / len(answers)
        held_out = Counter(labels[index] for index in validation)
        assert all(abs(held_out[label] - exact * count) < 1 for label, count in Counter(answers).items())


def test_one_row_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="validation_share"):
        carve_validation([0], {0: "a"}, 0.5, Draw(0, "t", "validation"), "t")


@pytest.mark.parametrize("kind", ["files", "folder"])
def test_a_finished_task_without_training_data_is_tested_on_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = [{"sentence": f"text {index}", "label": "ab"[index % 2]} for index in range(8)]
    for name, content in (("train", [*rows, {"sentence": "one more", "label": "c"}]), ("test", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "labels.json").write_text('["b", "a", "c"]', "utf-8")
    paths = {name: str(tmp_path / f"{name}.json") for name in ("train", "test")}
    source = {"folder": str(tmp_path)} if kind == "folder" else {**paths, "text": "sentence", "label": "label"}
    recipe = TaskRecipe.model_validate({"name": "own", "source": {"kind": kind, **source}})
    data = DataSection(train_per_task=3, test_per_task=4, validation_share=0.25)
    before = load_task(recipe, data, seed=0)
    assert (
        load_finished(recipe, before.labels, data, seed=0, tested_on="test").train.to_dict() == before.train.to_dict()
    )
    (tmp_path / "train.json").unlink()
    after = load_finished(recipe, before.labels, data, seed=0, tested_on="test")
    assert (len(after.train), after.validation) == (0, None)
    assert after.test.to_dict() == before.test.to_dict()
    assert after.labels == before.labels
    (tmp_path / "test.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        load_finished(recipe, before.labels, data, seed=0, tested_on="test")


def test_a_single_label_is_refused(tmp_path: Path) -> None:
    """Each answer would be right."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(f'{{"text": "t{index}", "label": {index % 2}}}\n' for index in range(4))
        )
    paths = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    source = {"kind": "files", **paths, "label_names": ["same", "same"]}
    with pytest.raises(DataError, match=r"^task 'one': 'same' is its only label, so each answer is"):
        load_task(TaskRecipe.model_validate({"name": "one", "source": source}), DataSection(), seed=0)
