"""The scores of a run that is in progress or damaged: what is whole, and in words what is not.

Each stage's row stands twice, in `matrix.json` and in the stage's `done.json`, which is sealed (`clkit.run.seal`). The
sealed one counts: a crash between the two leaves `matrix.json` a row behind, and a damaged `matrix.json` is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

from clkit.errors import RunError, UsageError
from clkit.results.kinds import LOWER_IS_BETTER, Row
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from clkit.run.seal import DONE_FILE, Done
from clkit.section import did_you_mean


class Recovered(NamedTuple):
    """The matrix of a run as far as it is whole, and one line about each thing that is not."""

    matrix: AccuracyMatrix
    remarks: list[str]


def recover_matrix(run: RunFolder, metric: str | None = None) -> Recovered:
    """The scores so far, from `matrix.json` and the stages; nothing is written.

    Args:
        metric: what the tasks are scored by, if not by the run's own metric. A stage's `done.json` holds the scores of
            every metric that follows from its test.

    Raises:
        RunError: there are none, or what is left of them does not say which is right.
        UsageError: the run has none of that metric.
    """
    recovered, done = _recover(run)
    if metric in (None, recovered.matrix.metric):
        return recovered
    return _rescored(run, recovered, done, str(metric))


def _rescored(run: RunFolder, recovered: Recovered, done: Mapping[int, Done], metric: str) -> Recovered:
    """The matrix with the scores of another metric, as far as the stages have them."""
    matrix = recovered.matrix
    scores = {
        index: one.payload["scores"] for index, one in done.items() if one.files is not None and "scores" in one.payload
    }
    if not scores:
        raise RunError(
            f"{run.path}: the stages were made by an older clkit, which kept the scores of {matrix.metric} only; "
            "`clkit eval` tests a stage by every metric"
        )
    kept = dict.fromkeys([matrix.metric, *(name for by_metric in scores.values() for name in by_metric)])
    if metric not in kept:
        hint = did_you_mean(metric, kept)
        raise UsageError(f"{run.path}: no scores of metric '{metric}'{hint} (the run has: {', '.join(kept)})")
    none: Row = [None] * len(matrix.tasks)
    rows = {index: scores[index].get(metric, none) for index in _rows(matrix) if index in scores}
    remarks = [
        f"{run.path}: the {metric} of stage {index} is lost with its {DONE_FILE}"
        for index in _rows(matrix)
        if index not in rows
    ]
    known = next(index for index in count(1) if index not in rows)
    header = matrix.header() | {"metric": metric, "higher_is_better": metric not in LOWER_IS_BETTER}
    rescored = AccuracyMatrix(**header, zero_shot=rows.get(0), rows=[rows[index] for index in range(1, known)])
    return Recovered(rescored, [*recovered.remarks, *remarks])


def _recover(run: RunFolder) -> tuple[Recovered, dict[int, Done]]:
    """The scores so far, and what each finished stage says that is whole."""
    saved, damage = _saved(run)
    done, remarks = _finished(run, saved)
    if not run.matrix_path.is_file() and (done or remarks):
        damage = f"{run.matrix_path} is missing"
    sealed = {index: one for index, one in done.items() if one.files is not None and "matrix" in one.payload}
    if saved is not None and not done:
        return Recovered(saved, remarks), done
    header = _header(run, sealed, saved)
    if header is None:
        if remarks:
            raise RunError(f"{damage}; nor can it be made anew: {remarks[0]}")
        older = "; nor can it be made anew: the stages were made by an older clkit" if done else ""
        raise RunError(f"{damage}{older}")

    rows = _merged(run, _rows(saved) if saved is not None else {}, done, sealed)
    known = next(index for index in count(1) if index not in rows)
    cut = [index for index in rows if index > known]
    if cut:
        remarks.append(f"{run.path}: without the scores of stage {known}, those from stage {min(cut)} on are left out")
    try:
        matrix = AccuracyMatrix(**header, zero_shot=rows.get(0), rows=[rows[index] for index in range(1, known)])
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.path}: the scores in the {DONE_FILE} of the stages do not fit: {error}") from error
    if saved is None:
        remarks.insert(0, f"{damage}: shown from the {DONE_FILE} of the stages")
    elif matrix != saved:
        remarks.insert(0, f"{run.matrix_path} {_difference(saved, matrix)}: shown from the {DONE_FILE} of the stages")
    return Recovered(matrix, remarks), done


def _saved(run: RunFolder) -> tuple[AccuracyMatrix | None, str]:
    try:
        return run.read_matrix(), ""
    except RunError as error:
        return None, str(error)


def _finished(run: RunFolder, saved: AccuracyMatrix | None) -> tuple[dict[int, Done], list[str]]:
    """What the stages' `done.json` say, by the stages' numbers, and a remark on each that is damaged or missing."""
    done: dict[int, Done] = {}
    remarks = []
    folders = run.stage_folders()
    expected = _rows(saved).keys() if saved is not None else set()
    for index, _, folder in folders:
        if (folder / DONE_FILE).is_file():
            if index in done:
                raise RunError(f"{run.path}: the folders of two stages have number {index}")
            try:
                done[index] = Done.read(folder)
            except RunError as error:
                remarks.append(str(error))
        elif index in expected or any(other > index and (path / DONE_FILE).is_file() for other, _, path in folders):
            remarks.append(f"{folder / DONE_FILE} is missing")
    return done, remarks


def _merged(
    run: RunFolder, saved: Mapping[int, Row], done: Mapping[int, Done], sealed: Mapping[int, Done]
) -> dict[int, Row]:
    """The rows by their stages' numbers: as a sealed `done.json` says, or else as it and `matrix.json` agree."""
    rows = dict(saved)
    for index, one in done.items():
        row: Any = one.payload.get("row")  # checked when the matrix is made of it
        if index not in sealed and index in saved and saved[index] != row:
            raise RunError(
                f"{run.matrix_path} and the {DONE_FILE} of stage {index} disagree, and neither is sealed, for an older "
                "clkit made them: its scores cannot be told"
            )
        rows[index] = row
    return rows


def _header(run: RunFolder, sealed: Mapping[int, Done], saved: AccuracyMatrix | None) -> dict[str, Any] | None:
    """The matrix without its rows, as the stages say, or else `matrix.json`."""
    headers = [one.payload["matrix"] for one in sealed.values()]
    if any(header != headers[0] for header in headers):
        raise RunError(f"{run.path}: the stages disagree about the run's tasks: they are not all of one run")
    return headers[0] if headers else saved.header() if saved is not None else None


def _rows(matrix: AccuracyMatrix) -> dict[int, Row]:
    """The rows by the numbers of their stages."""
    zero_shot = {} if matrix.zero_shot is None else {0: matrix.zero_shot}
    return zero_shot | dict(enumerate(matrix.rows, start=1))


def _difference(saved: AccuracyMatrix, matrix: AccuracyMatrix) -> str:
    """How a matrix that was saved differs from the right one."""
    before, after = _rows(saved), _rows(matrix)
    if saved.header() == matrix.header() and all(after.get(index) == row for index, row in before.items()):
        return f"lacks stage {', '.join(str(index) for index in after if index not in before)}"
    return "does not hold the scores of the stages"
