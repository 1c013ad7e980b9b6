"""Tables of output magnitudes: how far tasks share their top rows, layer by layer."""

from __future__ import annotations

import re
from collections import defaultdict

from rich.console import Group
from rich.table import Table

from clkit.engine.inspection import Magnitudes


def overlap_table(measured: Magnitudes) -> Group:
    """The share of top rows that two tasks have in common, averaged over layers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("%")
    for task in measured.tasks:
        table.add_column(task, justify="right")
    for task, row in zip(measured.tasks, measured.mean_overlap().tolist(), strict=True):
        table.add_row(task, *(f"{100 * value:.1f}" for value in row))
    chance = f"by chance: {100 * measured.top_share:.0f}"
    return Group(f"top {measured.top_share:.0%} of rows shared by two tasks, mean over layers ({chance})", table, "")


def kind_of(layer: str) -> str:
    """A layer's name without its number: layers of a kind stand at the same place in each block."""
    return re.sub(r"\.\d+\.", ".*.", layer, count=1)


def layer_table(measured: Magnitudes, *, every: bool = False) -> Group:
    """Per kind of layer (or for every layer): rows, magnitude held by the top rows, overlap and shift between tasks."""
    groups: dict[str, list[str]] = defaultdict(list)
    for layer in measured.layers:
        groups[layer if every else kind_of(layer)].append(layer)
    summary = measured.summary()["layers"]
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for heading in ("layers", "rows", "top", "shared", "shift"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, layers in groups.items():
        values = [summary[layer] for layer in layers]
        top = [share for value in values for share in value["top_mass"]]
        table.add_row(
            name,
            str(len(layers)),
            str(values[0]["rows"]),
            _percent(top),
            _percent([value["overlap_between_tasks"] for value in values]),
            _percent([value["shift_between_tasks"] for value in values]),
        )
    return Group(
        table,
        "",
        "Means in %. top: share of the magnitude that the top rows hold; shared: top rows that two tasks have in "
        "common; shift: total variation distance between two tasks' distributions.",
    )


def _percent(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.1f}" if known else "–"
