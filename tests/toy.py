"""A toy sequence of two tasks on disk, and recipes over it: small enough to train in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder

#: The toy's recipe on the toy T5, with changes.
ToyRecipe = Callable[..., Recipe]
#: A finished run of a recipe.
Finished = Callable[[Recipe], RunFolder]

TASKS = {"first": ("w1", "w2"), "second": ("w3 w4", "w5")}
#: Labels of a further task, one of which another has too.
FURTHER = {"third": ("w2", "w7")}


def write_task(folder: Path, name: str, examples: int = 24) -> dict[str, Any]:
    """JSONL files of a task whose answer is decided by the first word; its entry in a recipe's `tasks`."""
    labels = (TASKS | FURTHER)[name]
    draw = random.Random(name)
    for split in ("train", "test"):
        lines = []
        for index in range(examples):
            rest = " ".join(f"w{draw.randrange(10, 37)}" for _ in range(draw.randrange(1, 12)))
            lines.append(json.dumps({"text": f"w{6 + index % 2} {rest}", "label": labels[index % 2]}))
        (folder / f"{name}-{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return {
        "name": name,
        "source": {
            "kind": "files",
            "train": str(folder / f"{name}-train.jsonl"),
            "test": str(folder / f"{name}-test.jsonl"),
        },
        "labels": list(labels),
    }


def as_conversations(task: dict[str, Any], turns_of: Callable[[int], list[tuple[str, str]]]) -> dict[str, Any]:
    """The same task, its rows as the last turns of conversations.

    Args:
        turns_of: role and content of what is said before, by the row's place.
    """
    files = {}
    for split in ("train", "test"):
        file = Path(task["source"][split])
        lines = []
        for place, row in enumerate(map(json.loads, file.read_text("utf-8").splitlines())):
            said = [*turns_of(place), ("user", row["text"]), ("assistant", row["label"])]
            lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in said]}))
        files[split] = str(file.with_stem(f"{file.stem}-said"))
        Path(files[split]).write_text("\n".join(lines) + "\n", "utf-8")
    return {**task, "source": {**task["source"], **files, "messages": "messages"}}


def toy_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    """A recipe over both tasks; a mapping among the changes is merged into its section, and None leaves it out."""
    values: dict[str, Any] = {
        "name": "toy",
        "seed": 3,
        "model": {"name": str(model)},
        "tasks": [write_task(folder, name) for name in TASKS],
        "prompt": {"max_tokens": 64},
        "training": {"batch_size": 8, "learning_rate": 1e-2, "epochs": 2.0, "log_every": 1},
    }
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    return Recipe.model_validate({key: value for key, value in values.items() if value is not None})
