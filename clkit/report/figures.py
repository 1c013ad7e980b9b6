"""Figures, drawn with matplotlib."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkit.report.magnitude_tables import kind_of

if TYPE_CHECKING:
    from clkit.engine.inspection import Magnitudes

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
