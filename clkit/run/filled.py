"""`filled.json`: what was measured of finished stages later (`clkit eval --fill`). The stages stay as they are sealed.

::

    {"stages": {"1": {"of": "2c26…", "scores": {"exact_match": {"country": 0.5}},
                      "records": [{"task": "country", "index": 0, "prediction": "Germany", ...}, ...]}},
     ..., "sha256": "9f86…"}

``of`` is the hash of what the stage's `done.json` said then: of a stage that was made anew nothing holds any more. The
records are as those of `predictions.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clkit.run.layout import FILLED, FORGOTTEN
from clkit.run.seal import Done, text_sha256

#: Scores by metric and task.
Cells = Mapping[str, Mapping[str, float]]
#: A line of `predictions.jsonl`.
Record = Mapping[str, Any]


class Later(NamedTuple):
    """What was measured of a stage after it was finished."""

    scores: Cells
    records: list[Record]


def read_filled(run: Path, done: Mapping[int, Mapping[str, Any]]) -> dict[int, Later]:
    """What was measured later, by the stage's number.

    Args:
        done: what each finished stage says, by its number.

    Raises:
        RunError: the file is damaged.
    """
    stages = Done.read(run, FILLED).payload["stages"] if (run / FILLED).is_file() else {}
    kept = {index: stages.get(str(index), {}) for index in done}
    return {
        index: Later(one["scores"], one["records"])
        for index, one in kept.items()
        if one.get("of") == _hash(done[index])
    }


def add_filled(
    run: Path, done: Mapping[int, Mapping[str, Any]], stage: int, scores: Cells, records: Iterable[Record]
) -> None:
    """Keep further scores of a stage, sealed; those of other stages, and of stages made anew, as `read_filled` does."""
    filled = read_filled(run, done)
    before = filled.get(stage, Later({}, []))
    merged = {metric: {**before.scores.get(metric, {}), **cells} for metric, cells in scores.items()}
    filled[stage] = Later(merged, [*before.records, *records])
    stages = {str(index): {"of": _hash(done[index]), **later._asdict()} for index, later in filled.items()}
    Done({"stages": stages}, {}).write(run, FILLED)


def filled_without(run: Path, change: Callable[[Record], Record]) -> Done | None:
    """What the file is to say with other records; None where it would stay as it is.

    Raises:
        RunError: the file is damaged.
    """
    if not (run / FILLED).is_file():
        return None
    said = Done.read(run, FILLED)
    changed = {
        index: {**stage, "records": [*map(change, stage["records"])]} for index, stage in said.payload["stages"].items()
    }
    return None if changed == said.payload["stages"] else Done({"stages": changed}, {})


def _hash(payload: Mapping[str, Any]) -> str:
    said = {key: value for key, value in payload.items() if key != FORGOTTEN}  # which no score depends on
    return text_sha256(json.dumps(said, sort_keys=True))
