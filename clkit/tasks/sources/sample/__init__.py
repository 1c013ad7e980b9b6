"""The built-in sample: four small classification tasks that clkit makes itself, for a first run without a network.

Each text is a few sentences. Most of its sentences carry words of its label, some carry words of another label of the
same task, and some say nothing; in a few texts two labels have equal weight, so no model reaches 100 %. The words of a
label never contain the label itself. Everything follows from the seed in `random.Random`, whose stream for a string
seed is the same in every Python release, so the sample is the same everywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from clkit.section import did_you_mean
from clkit.tasks.sources.sample import words

# Divisible by 3, 4 and 5, so that each task is balanced exactly.
TRAIN_ROWS = 360
TEST_ROWS = 120

DISTRACTED = 0.35  # share of texts with one sentence of another label against two or three of the right one
AMBIGUOUS = 0.06  # share of texts with one sentence of each of two labels: half of them cannot be told

Split = Literal["train", "test"]


@dataclass(frozen=True)
class SampleTask:
    """A task of the sample; `labels` are in the order of the prompt."""

    name: str
    group: str
    instruction: str
    labels: tuple[str, ...]


_VOCABULARIES = {
    "topics": words.TOPICS,
    "reviews": words.REVIEWS,
    "requests": words.REQUESTS,
    "emotions": words.EMOTIONS,
}

_TASKS = (
    ("topics", "topic classification", "What is this news story about?"),
    ("reviews", "sentiment analysis", "How does the writer judge it?"),
    ("requests", "intent detection", "What does the customer ask for?"),
    ("emotions", "emotion recognition", "Which emotion does the diary show?"),
)

SAMPLE_TASKS: dict[str, SampleTask] = {
    name: SampleTask(name, group, instruction, tuple(_VOCABULARIES[name].labels)) for name, group, instruction in _TASKS
}


def sample_rows(name: str, split: Split) -> list[tuple[str, str]]:
    """The (text, label) pairs of one split of one task, the same in each call; no text is in both splits.

    Raises:
        KeyError: no task of the sample has that name.
    """
    train, test = _splits(name)
    return list(train if split == "train" else test)


def corpus(rows: int, seed: int) -> Iterator[str]:
    """Unlabelled texts of all tasks mixed, without any text of a test split. The tiny model is pre-trained on it."""
    rng = random.Random(f"clkit-corpus-{seed}")
    tests = {text for name in SAMPLE_TASKS for text, _ in sample_rows(name, "test")}
    while rows:
        name = rng.choice(list(SAMPLE_TASKS))
        text = _text(_VOCABULARIES[name], rng.choice(SAMPLE_TASKS[name].labels), rng)
        if text not in tests:
            rows -= 1
            yield text


@cache
def _splits(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    labels = SAMPLE_TASKS[name].labels
    rng = random.Random(f"clkit-sample-{name}")
    rows: dict[str, str] = {}
    for index in range(TRAIN_ROWS + TEST_ROWS):
        label = labels[index % len(labels)]
        while (text := _text(_VOCABULARIES[name], label, rng)) in rows:
            pass
        rows[text] = label
    pairs = list(rows.items())
    train, test = pairs[:TRAIN_ROWS], pairs[TRAIN_ROWS:]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def _text(vocabulary: words.Vocabulary, label: str, rng: random.Random) -> str:
    """A text of that label: its own sentences, perhaps one of another label, and filler, in any order."""
    other = rng.choice([candidate for candidate in vocabulary.labels if candidate != label])
    draw = rng.random()
    if draw < AMBIGUOUS:
        sources = [label, other]
    elif draw < AMBIGUOUS + DISTRACTED:
        sources = [label] * rng.randint(2, 3) + [other]
    else:
        sources = [label] * rng.randint(1, 3)
    frames = rng.sample(vocabulary.evidence, len(sources))
    sentences = [_fill(frame, vocabulary, source, rng) for frame, source in zip(frames, sources, strict=True)]
    fillers = rng.sample(vocabulary.filler, rng.randint(0, 1))
    sentences += [_fill(frame, vocabulary, label, rng) for frame in fillers]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _fill(frame: str, vocabulary: words.Vocabulary, label: str, rng: random.Random) -> str:
    slots = {**words.EVERYWHERE, **vocabulary.shared, **vocabulary.labels[label]}
    used: set[str] = set()

    def word(slot: re.Match[str]) -> str:
        chosen = rng.choice([word for word in slots[slot[1]] if word not in used])
        used.add(chosen)
        return chosen

    sentence = re.sub(r"\{(\w+)\}", word, frame)
    return sentence[0].upper() + sentence[1:]


def unknown_sample(name: str) -> str:
    """What to say of a task that the sample does not have."""
    return f"the sample has no task '{name}'{did_you_mean(name, SAMPLE_TASKS)} (tasks: {', '.join(SAMPLE_TASKS)})"
