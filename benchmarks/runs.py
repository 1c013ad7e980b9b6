"""Trains many recipes side by side, each in a process of its own; a finished run is not repeated."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from clkit.results.matrix import AccuracyMatrix
from clkit.results.spread import Aggregate


@dataclass(frozen=True)
class Job:
    """One run: its folder, the recipe, and the overrides."""

    folder: Path
    recipe: str
    overrides: tuple[str, ...]


def train_all(jobs: Iterable[Job], workers: int) -> dict[Path, AccuracyMatrix]:
    """The matrix of each job, by its folder.

    Raises:
        ClkitError: a run failed; finished ones stay, and are not repeated the next time.
    """
    # One thread each: more would share the cores with the other processes, and a run would depend on their number.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        futures = {pool.submit(_train, job): job for job in jobs}
        done = {}
        for future in as_completed(futures):
            done[futures[future].folder] = future.result()
    return done


def _end_with_parent() -> None:
    # Workers whose parent was killed would go on through the queue, and hold the locks of its runs.
    def wait() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _train(job: Job) -> AccuracyMatrix:
    import torch

    import clkit
    from clkit.report.console import quiet_libraries
    from clkit.run.folder import RunFolder

    quiet_libraries()
    # Second moments of rows that hardly move are denormal, and their roots 40 times slower: a twentieth of a run.
    torch.set_flush_denormal(True)
    recipe = clkit.Recipe.load(job.recipe, job.overrides)
    begun = not RunFolder(job.folder).is_empty()
    return clkit.train(recipe, job.folder, resume=begun).read_matrix()


def percent(value: Aggregate) -> str:
    """Mean ± sample standard deviation, in percent."""
    if value.mean is None:
        return "–"
    return f"{100 * value.mean:.1f}" + (f" ± {100 * value.std:.1f}" if value.std is not None else "")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def slug(text: str) -> str:
    """The text as part of a folder's name."""
    return "-".join("".join(c if c.isalnum() or c in ".-" else " " for c in text).split())


def means(metrics: Mapping[str, Aggregate], shown: Sequence[str]) -> list[str]:
    """The cells of one row."""
    return [percent(metrics[name]) for name in shown]
