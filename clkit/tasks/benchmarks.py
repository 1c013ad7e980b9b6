"""The named benchmarks: the 15 tasks of the MIGU and O-LoRA papers in their six orders, and the built-in sample.

Their tables stand in ``benchmarks.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clkit.tasks.sections import TaskRecipe
from clkit.tasks.source import SourceSection
from clkit.tasks.sources.folder import FolderSource
from clkit.tasks.sources.hub import HubSource
from clkit.tasks.sources.sample import SampleSource, sample_tasks, tables
from clkit.wording import did_you_mean


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks and the orders in which they are learned, numbered as in the MIGU paper."""

    name: str
    description: str
    orders: dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class BenchmarkTask:
    """One of the papers' tasks: its labels as a prompt lists them, and the public data set that holds the original."""

    group: str
    question: str | None
    labels: tuple[str, ...]
    hub: HubSource


@cache
def benchmarks() -> dict[str, Benchmark]:
    """The named benchmarks."""
    return {
        name: Benchmark(name, table["description"], {number: tuple(tasks) for number, tasks in table["orders"].items()})
        for name, table in tables("benchmarks")["benchmarks"].items()
    }


@cache
def paper_tasks() -> dict[str, BenchmarkTask]:
    """The papers' tasks by their names."""
    questions = tables("benchmarks")["questions"]
    return {
        name: BenchmarkTask(
            group=table["group"],
            question=questions[table["group"]],
            labels=tuple(table["labels"]),
            hub=HubSource(kind="hub", **table["hub"]),
        )
        for name, table in tables("benchmarks")["tasks"].items()
    }


def benchmark_tasks(name: str, order: int, folder: str | Path | None = None) -> list[TaskRecipe]:
    """The tasks of a benchmark in the given order, read from ``folder`` (CL_Benchmark layout) or else from the hub.

    Raises:
        ValueError: the benchmark is unknown, lacks that order, or is the built-in sample and a folder was given.
    """
    known = benchmarks()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"benchmark.name: unknown benchmark '{name}'{hint} (known: {', '.join(known)})")
    orders = known[name].orders
    if order not in orders:
        owner = next((f"; order {order} is one of '{b.name}'" for b in known.values() if order in b.orders), "")
        numbers = ", ".join(map(str, orders))
        raise ValueError(f"benchmark.order: '{name}' has no order {order}{owner} (orders of '{name}': {numbers})")
    if name == "sample":
        if folder is not None:
            raise ValueError("benchmark.folder: 'sample' is built into clkit; remove the folder or name a benchmark")
        return [_sample_task(task) for task in orders[order]]
    return [_paper_task(task, folder) for task in orders[order]]


def _paper_task(name: str, folder: str | Path | None) -> TaskRecipe:
    task = paper_tasks()[name]
    source: SourceSection = task.hub
    if folder is not None:  # 131 of the released MNLI's rows have no gold label, but a "-"
        source = FolderSource(kind="folder", folder=str(Path(folder) / task.group / name), missing=["-"])
    return TaskRecipe(
        name=name,
        source=source,
        labels=list(task.labels),
        options=task.question is not None,  # COPA's sentences hold the options, as the question
        instruction=task.question,
        group=task.group,
    )


def _sample_task(name: str) -> TaskRecipe:
    sample = sample_tasks()[name]
    source = SampleSource(kind="sample", task=name)
    return TaskRecipe(name=name, source=source, instruction=sample.instruction, group=sample.group)
