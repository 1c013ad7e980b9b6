"""Runs that hold scores, without training."""

from __future__ import annotations

from collections.abc import Mapping

from clkit.results.kinds import Row
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from clkit.run.layout import ZERO_SHOT


def score(run: RunFolder, matrix: AccuracyMatrix, scores: Mapping[str, Mapping[str, Row]] | None = None) -> RunFolder:
    """Finish the stages whose outcome the matrix is, and export it.

    Args:
        scores: of every metric, by the stage's name.
    """
    names = ["all-tasks"] if matrix.protocol == "multi_task" else matrix.tasks
    stages = [] if matrix.zero_shot is None else [(0, ZERO_SHOT, matrix.zero_shot)]
    stages += [(index, name, row) for index, (name, row) in enumerate(zip(names, matrix.rows, strict=False), start=1)]
    for index, name, row in stages:
        run.start_stage(index, name)
        more = {"scores": scores[name]} if scores else {}
        run.finish_stage(index, name, {"row": row, **more, "matrix": matrix.header()})
    if stages:
        run.export()
    return run
