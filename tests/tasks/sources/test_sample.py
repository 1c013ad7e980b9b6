from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest

from clkit.tasks.sources.sample import TEST_ROWS, TRAIN_ROWS, corpus, sample_rows, sample_tasks

TASKS = list(sample_tasks())

# Of the rows of each task. The README's numbers were measured on these rows: change both together.
DIGESTS = {
    "topics": "c04a7365c17a",
    "reviews": "a07e409b09f5",
    "requests": "e0a2f3b73dbb",
    "emotions": "e28489d4fc3b",
}


def digest(name: str) -> str:
    rows = [*sample_rows(name, "train"), *sample_rows(name, "test")]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]


def test_the_tasks_come_in_the_order_of_learning() -> None:
    assert TASKS == ["topics", "reviews", "requests", "emotions"]
    assert all(task.name == name for name, task in sample_tasks().items())


def test_no_label_belongs_to_two_tasks() -> None:
    labels = [label for task in sample_tasks().values() for label in task.labels]
    assert len(set(labels)) == len(labels)


def test_the_rows_are_the_same_on_every_machine() -> None:
    assert {name: digest(name) for name in TASKS} == DIGESTS


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("split", "rows"), [("train", TRAIN_ROWS), ("test", TEST_ROWS)])
def test_each_label_has_equally_many_rows(name: str, split: str, rows: int) -> None:
    labels = sample_tasks()[name].labels
    counts = Counter(label for _, label in sample_rows(name, split))
    assert counts == dict.fromkeys(labels, rows // len(labels))


@pytest.mark.parametrize("name", TASKS)
def test_texts_are_distinct_and_no_test_text_is_trained_on(name: str) -> None:
    texts = [text for split in ("train", "test") for text, _ in sample_rows(name, split)]
    assert len(texts) == TRAIN_ROWS + TEST_ROWS
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", TASKS)
def test_no_text_contains_a_label(name: str) -> None:
    labels = {label.lower() for label in sample_tasks()[name].labels}
    for split in ("train", "test"):
        for text, _ in sample_rows(name, split):
            assert not labels & set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("name", TASKS)
def test_no_single_word_gives_the_label_away(name: str) -> None:
    """Each word appears in few texts, so a task must be learned from many words."""
    rows = sample_rows(name, "train")
    for label in sample_tasks()[name].labels:
        own = Counter(word for text, of in rows if of == label for word in set(re.findall(r"\w+", text.lower())))
        other = Counter(word for text, of in rows if of != label for word in set(re.findall(r"\w+", text.lower())))
        telling = [word for word, count in own.items() if count > 2 * other[word]]
        assert max(own[word] for word in telling) < 0.4 * sum(of == label for _, of in rows)


def test_an_answer_in_the_list_does_not_reach_the_next_call() -> None:
    sample_rows("topics", "test").clear()
    assert len(sample_rows("topics", "test")) == TEST_ROWS


def test_the_corpus_is_deterministic_varied_and_free_of_test_texts() -> None:
    texts = list(corpus(2000, seed=1))
    assert texts == list(corpus(2000, seed=1))
    assert texts != list(corpus(2000, seed=2))
    assert len(texts) == 2000
    assert len(set(texts)) > 1800
    assert not set(texts) & {text for name in TASKS for text, _ in sample_rows(name, "test")}
