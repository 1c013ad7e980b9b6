"""Which rows of a run's layers are loud, as `clkit inspect-magnitudes` measured it into the run."""

from __future__ import annotations

from typing import NamedTuple

from clkit.errors import RunError
from clkit.report.magnitudes import BETWEEN, LEGEND, MOVED, SHIFT, STAGES_LEGEND, stage_cells
from clkit.report.page.heat import Cell, Heat, Line, level
from clkit.report.page.sides import Rows
from clkit.report.tables import show_number
from clkit.run.folder import RunFolder
from clkit.run.layout import INSPECT
from clkit.run.seal import read_object


class Loud(NamedTuple):
    """The top rows that tasks share at the last stage that was measured, and a row of figures per stage."""

    shared: Heat
    heads: list[str]
    rows: Rows
    legend: str


def read_loud(run: RunFolder) -> Loud | None:
    """What was measured; None where nothing was, or where it cannot be read."""
    try:
        found = read_object(run.path / INSPECT / "magnitudes.json")
        tasks, last = found["tasks"], found["stages"][-1]
        top, chance = f"{found['top_share']:.0%}", show_number(found["chance"], fraction=True)
        lines = [
            Line(task, [Cell(show_number(share, fraction=True), level(share)) for share in row])
            for task, row in zip(tasks, last["overlap"], strict=True)
        ]
        rows = [[stage["stage"], *(cell.plain for cell in stage_cells(stage))] for stage in found["stages"]]
    except (RunError, KeyError, IndexError, TypeError, ValueError):
        return None
    about = (
        f"Of the {top} of rows whose output is largest on a task, the share that is among them on another task too, in "
        f"percent; mean over layers, {last['stage']}. By chance it would be {chance}."
    )
    heads = ["stage", *BETWEEN.values(), *SHIFT.values(), *MOVED.values()]
    return Loud(Heat(about, tasks, lines), heads, rows, f"{LEGEND} {STAGES_LEGEND}")
