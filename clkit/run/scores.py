"""The scores of a run, which have one source: the sealed `done.json` of each stage (`clkit.run.seal`).

`matrix.json` and `metrics.json` are exports for other programs; clkit writes them from here and never reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from clkit.errors import RunError, UsageError
from clkit.results.kinds import LOWER_IS_BETTER, Row
from clkit.results.matrix import AccuracyMatrix
from clkit.run.filled import read_filled
from clkit.run.layout import MATRIX, METRICS, PREDICTIONS, stage_folders
from clkit.run.seal import DONE_FILE, Done
from clkit.wording import did_you_mean


class Scores(NamedTuple):
    """The matrix of a run as far as its stages are whole.

    Attributes:
        damage: one line about each stage that is not.
        notes: one line about each thing that the reader of the scores should know.
    """

    matrix: AccuracyMatrix
    damage: list[str]
    notes: list[str]

    def exports(self) -> dict[str, dict[str, Any]]:
        """The content of `matrix.json` and `metrics.json`."""
        metrics = {name: metric.to_json() for name, metric in self.matrix.metrics().items()}
        return {MATRIX: self.matrix.to_json(), METRICS: metrics}


def read_scores(run: Path, metric: str | None = None) -> Scores:
    """The scores so far; those of a stage that is damaged are null.

    Args:
        metric: what the tasks are scored by, if not by the run's own metric. A stage's `done.json` holds the scores of
            every metric that follows from its test.

    Raises:
        RunError: there are none, or the stages are not all of one run.
        UsageError: the run has none of that metric.
    """
    done, damage = _finished(run)
    if not done:
        raise RunError(damage[0] if damage else f"{run}: nothing was evaluated so far")
    try:
        header = _header(run, done)
        metric = metric or header["metric"]
        rows = {index: _row(payload, metric, header) for index, payload in done.items()}
        later = _measured_later(run, done, header["tasks"], metric, rows, damage)
        if not any(metric in payload.get("scores", {}) for payload in done.values()) and metric != header["metric"]:
            known = dict.fromkeys(name for payload in done.values() for name in payload.get("scores", {}))
            hint = did_you_mean(metric, known)
            raise UsageError(f"{run}: no scores of metric '{metric}'{hint} (the run has: {', '.join(known)})")
        header |= {"metric": metric, "higher_is_better": metric not in LOWER_IS_BETTER}
        none: Row = [None] * len(header["tasks"])
        learned = [rows.get(index) or none for index in range(1, max(done) + 1)]
        matrix = AccuracyMatrix(**header, zero_shot=rows.get(0), rows=learned)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run}: the scores in the {DONE_FILE} of the stages do not fit: {error}") from error
    return Scores(matrix, damage, [*later, *_changed_tests(run, done)])


def _finished(run: Path) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """What each finished stage says, by its number, and a remark on each that is damaged or missing."""
    done: dict[int, dict[str, Any]] = {}
    folders = stage_folders(run)
    numbers = [folder.number for folder in folders]
    last = max((folder.number for folder in folders if folder.is_finished), default=0)
    damage = [f"{run}: stage {index} is missing" for index in range(1, last) if index not in numbers]
    twice = next((index for index in numbers if numbers.count(index) > 1), None)
    if twice is not None:
        raise RunError(f"{run}: the folders of two stages have number {twice}")
    for folder in folders:
        if folder.is_finished:
            try:
                done[folder.number] = Done.read(folder.path).payload
            except RunError as error:
                damage.append(f"{error}: its scores are not shown")
        elif folder.number < last:
            damage.append(f"{folder.path / DONE_FILE} is missing: its scores are not shown")
    return done, damage


def _header(run: Path, done: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The matrix without its rows, as the last stage says.

    Those before it knew the same tasks or, where the run has grown since, only the first of them; test data that were
    changed may have another size.
    """
    headers = [dict(payload["matrix"]) for payload in done.values()]
    last = headers[-1]
    for header in headers:
        of_data = {key: last[key] for key in ("counts", "chance")}
        first = (last["tasks"] or [])[: len(header["tasks"] or [])]
        if {**header, **of_data} != {**last, "tasks": first}:
            raise RunError(f"{run}: the stages disagree about the run's tasks: they are not all of one run")
    return last


def _row(payload: Mapping[str, Any], metric: str, header: Mapping[str, Any]) -> Row | None:
    """The scores on the tasks that the stage knew, and None for each that came later."""
    row: Row | None = payload["row"] if metric == header["metric"] else payload.get("scores", {}).get(metric)
    return row and [*row, *[None] * (len(header["tasks"]) - len(payload["matrix"]["tasks"]))]


def _measured_later(
    run: Path,
    done: Mapping[int, Mapping[str, Any]],
    tasks: Sequence[str],
    metric: str,
    rows: dict[int, Row | None],
    damage: list[str],
) -> list[str]:
    """Fill what was measured after its stage was finished into the rows, and remark on it."""
    try:
        filled = read_filled(run, done)
    except RunError as error:
        damage.append(f"{error}: what was measured later is not shown")
        return []
    notes = []
    for index, later in filled.items():
        row, own = rows[index], later.scores.get(metric, {})
        added = [task for task, score in zip(tasks, row or [], strict=False) if score is None and task in own]
        rows[index] = row and [
            own.get(task) if score is None else score for task, score in zip(tasks, row, strict=True)
        ]
        if added:
            stage = f"after {tasks[index - 1]}" if index else "zero-shot"
            notes.append(f"{run}: measured later (clkit eval --fill): {stage}: {', '.join(added)}")
    return notes


def _changed_tests(run: Path, done: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """A remark on each task whose test data changed while the run went on (`--accept-changes`)."""
    notes, seen = [], dict[str, str]()
    for index, payload in done.items():
        for name, value in payload.get("read", {}).items():
            if seen.setdefault(name, value) != value:
                notes.append(f"{run}: {name} changed before stage {index}: scores before and after do not compare")
                seen[name] = value
    return notes


def last_records(stages: Sequence[Path], task: str) -> list[dict[str, Any]]:
    """The records of a task's test in the last of these stages that has any."""
    return next((found for stage in reversed(stages) if (found := read_records(stage).get(task))), [])


def read_records(stage: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of a stage's tests by task, in the order of the data; nothing where the file is not whole."""
    path, found = stage / PREDICTIONS, dict[str, list[dict[str, Any]]]()
    with suppress(ValueError, TypeError, KeyError):
        # Not `splitlines`, which parts a text where it has a line separator of Unicode's.
        records = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.is_file() else []
        for record in records:
            found.setdefault(record["task"], []).append(record)
        return found
    return {}
