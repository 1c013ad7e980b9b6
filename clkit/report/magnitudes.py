"""Tables and a figure of output magnitudes: how far tasks share their top rows, layer by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

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


#: Kinds of layers shown at most; the saved data holds all.
PANELS = 5


def save_magnitude_figure(measured: Magnitudes, path: Path) -> Path:
    """Draw how each task's magnitudes lie over the rows, and how far tasks share their top rows.

    One panel per kind of layer (the middle layer of the kind): rows in the order of the first task's magnitude, the
    magnitude of every task relative to the uniform distribution (n_i · d_out). Where the lines of later tasks leave
    the first, the distribution has shifted. The last panel shows the overlap of the top rows, averaged over layers.
    """
    import matplotlib  # late: it takes a second

    matplotlib.use("agg")
    from matplotlib import pyplot

    kinds: dict[str, list[str]] = defaultdict(list)
    for layer in measured.layers:
        kinds[kind_of(layer)].append(layer)
    shown = [layers[len(layers) // 2] for layers in _spread(list(kinds.values()), PANELS)]
    columns = 3
    rows = -(-(len(shown) + 1) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    panels = list(axes.flat)
    colours = pyplot.get_cmap("viridis")(
        [index / max(len(measured.tasks) - 1, 1) * 0.9 for index in range(len(measured.tasks))]
    )
    for panel, layer in zip(panels, shown, strict=False):
        _draw_layer(panel, measured, layer, colours)
    _draw_overlap(figure, panels[len(shown)], measured)
    for panel in panels[len(shown) + 1 :]:
        panel.axis("off")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 8), frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _spread(values: list[Any], most: int) -> list[Any]:
    """At most so many of the values, taken evenly from first to last."""
    if len(values) <= most:
        return values
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _draw_layer(panel: Any, measured: Magnitudes, layer: str, colours: Any) -> None:
    n = measured.layers[layer]
    units = n.shape[1]
    order = n[0].argsort(descending=True, stable=True)
    for index in range(len(measured.tasks)):
        values = (n[index, order] * units).numpy()
        style = {"linewidth": 1.8, "zorder": 3} if index == 0 else {"linewidth": 0, "marker": ".", "markersize": 2.5}
        panel.plot(range(units), values, color=colours[index], label=measured.tasks[index], **style)
    panel.axvline(measured.top_share * units, color="0.6", linewidth=0.8, linestyle="--")
    panel.set_title(layer, fontsize=8)
    panel.set_xlabel(f"rows, by magnitude on {measured.tasks[0]}", fontsize=8)
    panel.set_ylabel("magnitude / mean", fontsize=8)
    panel.tick_params(labelsize=7)


def _draw_overlap(figure: Any, panel: Any, measured: Magnitudes) -> None:
    overlap = measured.mean_overlap().numpy() * 100
    image = panel.imshow(overlap, cmap="viridis", vmin=100 * measured.top_share, vmax=100)
    ticks = range(len(measured.tasks))
    panel.set_xticks(ticks, measured.tasks, rotation=45, ha="right", fontsize=7)
    panel.set_yticks(ticks, measured.tasks, fontsize=7)
    if len(measured.tasks) <= 6:
        for row in ticks:
            for column in ticks:
                colour = "black" if overlap[row, column] > 70 else "white"
                panel.text(column, row, f"{overlap[row, column]:.0f}", ha="center", va="center", color=colour, size=7)
    panel.set_title(f"top {measured.top_share:.0%} rows shared, mean over layers (%)", fontsize=8)
    figure.colorbar(image, ax=panel, shrink=0.8).ax.tick_params(labelsize=7)
