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
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field

from clkit.errors import DataError
from clkit.tasks.records import Records
from clkit.tasks.source import Source, SourceSection, Wanted
from clkit.wording import did_you_mean

# The loader in C is ten times faster, and most builds of PyYAML have it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def tables(name: str) -> dict[str, Any]:
    """What ``clkit/tasks/NAME.yaml`` holds; the same object in each call."""
    text = Path(__file__).parents[1].joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=_LOADER))


# Divisible by 3, 4 and 5, so that each task is balanced exactly.
TRAIN_ROWS = 360
TEST_ROWS = 120

DISTRACTED = 0.35  # share of texts with one sentence of another label against two or three of the right one
AMBIGUOUS = 0.06  # share of texts with one sentence of each of two labels: half of them cannot be told


@dataclass(frozen=True)
class SampleTask:
    """A task of the sample; `labels` are in the order of the prompt."""

    name: str
    group: str
    instruction: str
    labels: tuple[str, ...]


@cache
def sample_tasks() -> dict[str, SampleTask]:
    """The tasks of the sample by their names."""
    return {
        name: SampleTask(name, table["group"], table["instruction"], tuple(table["labels"]))
        for name, table in tables("sample")["tasks"].items()
    }


class SampleSource(SourceSection):
    """A task of the sample that is built into clkit."""

    rank: ClassVar[int] = 4
    kind: Literal["sample"] = Field(description="The sample that is built into clkit.")
    task: str = Field(description="Name of a task of the built-in sample.")

    def lacks(self, wanted: Wanted) -> list[str]:
        known = sample_tasks()
        if self.task in known:
            return []
        hint = did_you_mean(self.task, known)
        return [f"task: the sample has no task '{self.task}'{hint} (tasks: {', '.join(known)})"]

    def read(self, wanted: Wanted) -> Source:
        for line in self.lacks(wanted):
            raise DataError(f"tasks.{wanted.task}.source.{line}")
        columns = self.columns(wanted, "text", "label")
        train, test = (self.rows(self._records(split), columns, self.task) for split in ("train", "test"))
        return Source(train, test if wanted.tested else None, sample_tasks()[self.task].labels)

    def place(self, split: str) -> str:
        return f"sample task '{self.task}'"

    def _records(self, split: str) -> Records:
        for row, (text, label) in enumerate(sample_rows(self.task, split), start=1):
            yield f"sample task '{self.task}', split '{split}', row {row}", {"text": text, "label": label}


def sample_rows(name: str, split: str) -> list[tuple[str, str]]:
    """The (text, label) pairs of one split of one task, the same in each call; no text is in both splits.

    Raises:
        KeyError: no task of the sample has that name.
    """
    train, test = _splits(name)
    return list(train if split == "train" else test)


def corpus(rows: int, seed: int) -> Iterator[str]:
    """Unlabelled texts of all tasks mixed, without any text of a test split. The tiny model is pre-trained on it."""
    rng = random.Random(f"clkit-corpus-{seed}")
    tests = {text for name in sample_tasks() for text, _ in sample_rows(name, "test")}
    while rows:
        name = rng.choice(list(sample_tasks()))
        text = _text(name, rng.choice(sample_tasks()[name].labels), rng)
        if text not in tests:
            rows -= 1
            yield text


@cache
def _splits(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    labels = sample_tasks()[name].labels
    rng = random.Random(f"clkit-sample-{name}")
    rows: dict[str, str] = {}
    for index in range(TRAIN_ROWS + TEST_ROWS):
        label = labels[index % len(labels)]
        while (text := _text(name, label, rng)) in rows:
            pass
        rows[text] = label
    pairs = list(rows.items())
    train, test = pairs[:TRAIN_ROWS], pairs[TRAIN_ROWS:]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def _text(task: str, label: str, rng: random.Random) -> str:
    """A text of that label: its own sentences, perhaps one of another label, and filler, in any order."""
    words = tables("sample")["tasks"][task]
    other = rng.choice([candidate for candidate in words["labels"] if candidate != label])
    draw = rng.random()
    if draw < AMBIGUOUS:
        sources = [label, other]
    elif draw < AMBIGUOUS + DISTRACTED:
        sources = [label] * rng.randint(2, 3) + [other]
    else:
        sources = [label] * rng.randint(1, 3)
    frames = rng.sample(words["evidence"], len(sources))
    sentences = [_fill(frame, words, source, rng) for frame, source in zip(frames, sources, strict=True)]
    fillers = rng.sample(words["filler"], rng.randint(0, 1))
    sentences += [_fill(frame, words, label, rng) for frame in fillers]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _fill(frame: str, words: dict[str, Any], label: str, rng: random.Random) -> str:
    slots = {**tables("sample")["everywhere"], **words.get("shared", {}), **words["labels"][label]}
    used: set[str] = set()

    def word(slot: re.Match[str]) -> str:
        chosen = rng.choice([word for word in slots[slot[1]] if word not in used])
        used.add(chosen)
        return str(chosen)

    sentence: str = re.sub(r"\{(\w+)\}", word, frame)
    return sentence[0].upper() + sentence[1:]
