"""The named benchmarks are the papers': tasks, orders, labels, and hub columns that give the released sentences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clkit.tasks.benchmarks import benchmark_tasks, benchmarks, paper_tasks
from clkit.tasks.loading import load_task
from clkit.tasks.sections import DataSection
from clkit.tasks.sources.folder import FolderSource
from clkit.tasks.sources.hub import HubSource

COUNTS = {  # of shared/data/README.md: training rows, test rows, labels
    "dbpedia": (1000, 500, 14),
    "amazon": (1000, 500, 5),
    "yahoo": (995, 496, 10),
    "agnews": (1000, 500, 4),
    "yelp": (1000, 500, 5),
    "IMDB": (1000, 498, 2),
    "SST-2": (1000, 436, 2),
    "MNLI": (1000, 500, 3),
    "CB": (250, 28, 3),
    "RTE": (1000, 138, 2),
    "QQP": (1000, 500, 2),
    "COPA": (400, 50, 2),
    "BoolQA": (1000, 500, 2),
    "MultiRC": (1000, 500, 2),
    "WiC": (1000, 319, 2),
}


def test_the_orders_are_the_papers() -> None:
    assert list(benchmarks()) == ["standard_cl", "long_cl", "short_cl", "sample"]
    assert {order for benchmark in benchmarks().values() for order in benchmark.orders} == {1, 2, 3, 4, 5, 6}
    for order in benchmarks()["standard_cl"].orders.values():
        assert sorted(order) == ["agnews", "amazon", "dbpedia", "yahoo"]
    for order in benchmarks()["long_cl"].orders.values():
        assert sorted(order) == sorted(paper_tasks())
    assert benchmarks()["standard_cl"].orders[1] == ("dbpedia", "amazon", "yahoo", "agnews")
    assert benchmarks()["long_cl"].orders[4][:3] == ("MNLI", "CB", "WiC")


def test_every_benchmark_of_every_order_gives_recipes() -> None:
    for benchmark in benchmarks().values():
        for order, names in benchmark.orders.items():
            assert [task.name for task in benchmark_tasks(benchmark.name, order)] == list(names)


def test_a_folder_replaces_the_hub() -> None:
    hub, folder = benchmark_tasks("standard_cl", 1)[0], benchmark_tasks("standard_cl", 1, "/data")[0]
    assert isinstance(hub.source, HubSource)
    assert isinstance(folder.source, FolderSource)
    assert folder.source.folder == "/data/TC/dbpedia"
    assert folder.model_copy(update={"source": hub.source}) == hub


@pytest.mark.parametrize(
    ("name", "order", "folder", "message"),
    [
        (
            "long_c",
            4,
            None,
            r"^benchmark.name: unknown benchmark 'long_c', did you mean 'long_cl'\? \(known: standard_",
        ),
        (
            "standard_cl",
            4,
            None,
            r"^benchmark.order: 'standard_cl' has no order 4; order 4 is one of 'long_cl' \(orders",
        ),
        ("sample", 9, None, r"^benchmark.order: 'sample' has no order 9 \(orders of 'sample': 1\)"),
        ("sample", 1, "/data", r"^benchmark.folder: 'sample' is built into clkit"),
    ],
)
def test_what_a_benchmark_lacks_is_named(name: str, order: int, folder: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark_tasks(name, order, folder)


def test_naming_benchmarks_imports_nothing_heavy() -> None:
    code = "import sys, clkit.tasks.benchmarks; print(sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_sample_loads() -> None:
    for recipe in benchmark_tasks("sample", 1):
        task = load_task(recipe, DataSection(), seed=0)
        assert set(task.train["answer"]) == set(task.test["answer"]) == set(task.labels or ())


@pytest.mark.parametrize("name", COUNTS)
def test_each_real_task_loads_from_the_folder(name: str, cl_benchmark: Path) -> None:
    recipe = next(task for task in benchmark_tasks("long_cl", 4, cl_benchmark) if task.name == name)
    task = load_task(recipe, DataSection(), seed=0)
    assert task.labels is not None
    assert (len(task.train), len(task.test), len(task.labels)) == COUNTS[name]
    assert set(task.train["answer"]) == set(task.test["answer"]) == set(task.labels)
    assert task.dropped == {}
    written = json.loads((cl_benchmark / task.group / name / "labels.json").read_text())
    assert list(task.labels) == written, "the prompt's order of labels is the released one"
    assert task.instruction == paper_tasks()[name].question


# Where the hub's columns stand in a released sentence.
PAIR = r"sentence 1: (?P<{0}>.*)\nsentence 2: (?P<{1}>.*)"
HUB_COLUMNS = {
    "dbpedia": r"Title: (?P<title>.*)\nText: (?P<content>.*)\n",
    "amazon": r"Title: (?P<review_title>.*)\nText: (?P<review_text>.*)\n",
    "yelp": r"Text: (?P<text>.*)\n",
    "IMDB": r"(?P<text>.*)",
    "SST-2": r"Text: (?P<sentence>.*)",
    "MNLI": PAIR.format("premise", "hypothesis"),
    "CB": PAIR.format("premise", "hypothesis"),
    "RTE": PAIR.format("sentence1", "sentence2"),
    "QQP": r"first sentence: (?P<question1>.*)\nsecond sentence: (?P<question2>.*)",
    "COPA": r'Which sentence is the (?P<question>cause|effect) of "(?P<premise>.*)"\? Choose one between A and B\.\n'
    r"A: (?P<choice1>.*)\nB: (?P<choice2>.*)",
    "BoolQA": r"question: (?P<question>.*?)\npassage: (?P<passage>.*)",
    "MultiRC": r"paragraph: (?P<paragraph>.*)\nquestion: (?P<question>.*)\ncandidate answer: (?P<answer>.*)",
    "WiC": r"word: (?P<word>.*?)\n(?P<sentence1>.*)\n(?P<sentence2>.*)",
}
# The numbers of the public data sets, from their own cards; the rest number their labels as the prompt lists them.
HUB_NUMBERS: dict[str, dict[str, int]] = {
    "amazon": {"very negative": 1, "negative": 2, "neutral": 3, "positive": 4, "very positive": 5},
    "IMDB": {"Bad": 0, "Good": 1},
    "SST-2": {"Bad": 0, "Good": 1},
    "MNLI": {"entailment": 0, "neutral": 1, "contradiction": 2},
    "CB": {"entailment": 0, "contradiction": 1, "neutral": 2},
    "RTE": {"entailment": 0, "contradiction": 1},
    "BoolQA": {"False": 0, "True": 1},
    "WiC": {"False": 0, "True": 1},
}


@pytest.mark.parametrize("name", HUB_COLUMNS)
def test_a_hub_row_becomes_the_released_sentence(name: str, cl_benchmark: Path, tmp_path: Path) -> None:
    """Released records, taken apart into the hub's columns and loaded as the hub would be, become themselves again."""
    recipe = next(task for task in benchmark_tasks("long_cl", 4) if task.name == name)
    assert isinstance(recipe.source, HubSource)
    numbers = HUB_NUMBERS.get(name, {label: number for number, label in enumerate(paper_tasks()[name].labels)})
    records = json.loads((cl_benchmark / paper_tasks()[name].group / name / "train.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    kept = []
    for record in records:
        if match := re.fullmatch(HUB_COLUMNS[name], record["sentence"], re.DOTALL):
            rows.append({**match.groupdict(), recipe.source.label: numbers[record["label"]]})
            kept.append(record)
    assert len(kept) > 0.3 * len(records)
    for split in {recipe.source.train_split, recipe.source.test_split}:
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{split.split('_')[0]}.jsonl").write_text(lines, encoding="utf-8")

    source = recipe.source.model_copy(
        update={"dataset": str(tmp_path), "config": None, "test_split": recipe.source.test_split.split("_")[0]}
    )
    task = load_task(recipe.model_copy(update={"source": source}), DataSection(), seed=0)
    assert list(task.train["text"]) == [record["sentence"] for record in kept]
    assert list(task.train["answer"]) == [record["label"] for record in kept]
