"""`filled.json`: what was measured of finished stages later (`clkit eval --fill`). The stages stay as they are sealed.

::

    {"stages": {"1": {"of": "2c26…", "scores": {"exact_match": {"country": 0.5}}}}, ..., "sha256": "9f86…"}

``of`` is the hash of what the stage's `done.json` said then: of a stage that was made anew nothing holds any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clkit.run.layout import FILLED, FORGOTTEN
from clkit.run.seal import Done, text_sha256

#: Scores by metric and task.
Cells = Mapping[str, Mapping[str, float]]


def read_filled(run: Path, done: Mapping[int, Mapping[str, Any]]) -> dict[int, Cells]:
    """The scores that were measured later, by the stage's number.

    Args:
        done: what each finished stage says, by its number.

    Raises:
        RunError: the file is damaged.
    """
    stages = Done.read(run, FILLED).payload["stages"] if (run / FILLED).is_file() else {}
    kept = {index: stages.get(str(index), {}) for index in done}
    return {index: one["scores"] for index, one in kept.items() if one.get("of") == _hash(done[index])}


def add_filled(run: Path, done: Mapping[int, Mapping[str, Any]], stage: int, scores: Cells) -> None:
    """Keep further scores of a stage, sealed; those of other stages, and of stages made anew, as `read_filled` does."""
    filled = read_filled(run, done)
    before = filled.get(stage, {})
    filled[stage] = {metric: {**before.get(metric, {}), **cells} for metric, cells in scores.items()}
    stages = {str(index): {"of": _hash(done[index]), "scores": cells} for index, cells in filled.items()}
    Done({"stages": stages}, {}).write(run, FILLED)


def _hash(payload: Mapping[str, Any]) -> str:
    said = {key: value for key, value in payload.items() if key != FORGOTTEN}  # which no score depends on
    return text_sha256(json.dumps(said, sort_keys=True))
