"""Runs that hold all that a page shows, without training: scores, answers, a log, general ability, fingerprints."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_jsonl
from clkit.run.folder import RunFolder
from clkit.run.layout import ZERO_SHOT

PLAIN: list[dict[str, Any]] = []
MIGU: list[dict[str, Any]] = [{"name": "migu", "threshold": 0.5}]
LABELS = ("yes", "no")


def recipe_text(tasks: Sequence[str], seed: int, strategies: list[dict[str, Any]], name: str = "made") -> str:
    source = {"kind": "files", "train": "/data/train.csv", "test": "/data/test.csv"}
    return yaml.safe_dump(
        {
            "name": name,
            "seed": seed,
            "model": {"name": "embedded:tiny-t5"},
            "tasks": [{"name": task, "source": source} for task in tasks],
            "strategies": strategies,
            "training": {"batch_size": 16},
        },
        sort_keys=False,
    )


def make_run(
    path: Path,
    tasks: Sequence[str] = ("red", "green", "blue"),
    *,
    seed: int = 1,
    strategies: list[dict[str, Any]] = PLAIN,
    keep: float = 0.5,
    examples: int = 4,
    text: str = "a text about",
    steps: int = 3,
    learned: int | None = None,
) -> RunFolder:
    """A run that answers 0.9 of a task when it is just learned, and of that a share ``keep`` less with each later one.

    Args:
        text: what the examples begin with.
        steps: lines of the log for each task.
        learned: how many of the tasks are finished; None for all.
    """
    draw = random.Random(f"{path.name}")
    environment = {"read": {f"tasks.{task}.test": f"{examples} examples, 0123abcd" for task in tasks}}
    environment |= {"versions": {"python": "3.11.7"}, "command": ["clkit", "train"], "started": "2026-01-02T03:04:05"}
    run = RunFolder.create(path, recipe_text(tasks, seed, strategies), environment)
    chance = {"exact_match": {guess: [0.3] * len(tasks) for guess in ("uniform", "majority")}}
    header = AccuracyMatrix(list(tasks), [examples] * len(tasks), chance=chance).header()
    log: list[dict[str, Any]] = []
    for stage, name in list(enumerate([ZERO_SHOT, *tasks]))[: None if learned is None else learned + 1]:
        folder = run.start_stage(stage, name)
        scores: list[float | None] = [None] * len(tasks)
        records = []
        for place in range(stage if stage else len(tasks)):
            scores[place] = round(0.9 * keep ** (stage - 1 - place), 4) if stage else 0.0
            for index in range(examples):
                right = bool(stage) and index < examples * keep ** (stage - 1 - place)
                answers = LABELS if index % 2 else LABELS[::-1]
                told = {"place": f"/data/{tasks[place]}.csv:{index + 2}", "text": f"{text} {tasks[place]} {index}"}
                said = {"gold": answers[0], "prediction": answers[0 if right else 1], "correct": right}
                records.append({"task": tasks[place], "index": index, **told, **said})
        write_jsonl(folder / "predictions.jsonl", records)
        general = {"held_out_loss": 2.0 + 0.1 * stage}
        run.finish_stage(stage, name, {"row": scores, "matrix": header, "general": general, "steps": steps})
        for step in range(1, (steps if stage else 0) + 1):
            terms = {"task_loss": 2 / step + draw.random() / 10} | ({"migu_masked_share": 0.5} if strategies else {})
            log.append({"event": "step", "task": name, "step": step, "learning_rate": 1e-3, **terms})
    write_jsonl(run.log.path, log)
    return run
