"""Figures of output magnitudes: how they lie over the rows, how far tasks differ, and what stages change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from clkit.engine.inspection import Magnitudes, StageMagnitudes
from clkit.models.depths import depth_of, stack_of
from clkit.models.distributions import top_rows
from clkit.report.magnitudes import kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

#: Told apart by colour-blind eyes too (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B2A400")
DASHES = ("-", "--", "-.", ":")
#: Layers and tasks drawn at most; the data hold all.
PANELS, TASKS = 4, 8


def save_figures(measured: Magnitudes, found: Mapping[str, Any], folder: Path, suffix: str) -> list[Path]:
    """Draw all that there is to draw: `distribution`, `distances` and, of several stages, `stages`.

    Args:
        found: the summary of what was measured.
        suffix: `png` or `svg`.
    """
    import matplotlib  # late: it takes a second

    matplotlib.use("agg")
    from matplotlib import pyplot

    paths = []
    style = {"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context({**style, "svg.hashsalt": "clkit", "figure.constrained_layout.use": True}):
        figures = {"distribution": distribution_figure(measured), "distances": distances_figure(found)}
        if any(stage.since for stage in measured.stages):
            figures["stages"] = stages_figure(measured, found)
        for name, figure in figures.items():
            paths.append(folder / f"{name}.{suffix}")
            figure.savefig(paths[-1], dpi=130, metadata={"Date": None} if suffix == "svg" else None)
            pyplot.close(figure)
    return paths


def distribution_figure(measured: Magnitudes) -> Figure:
    """Each task's L1-normalised magnitudes over a layer's rows, as in the paper's first figure; the last stage's.

    A column per kind of layer (the middle one of the kind), a row per task. All stand in the order of the first task's
    magnitudes, so that what rises on the right is loud for another task and quiet for the first.
    """
    from matplotlib import pyplot

    stage = measured.stages[-1]
    kinds: dict[str, list[str]] = defaultdict(list)
    for layer in stage.layers:
        kinds[kind_of(layer)].append(layer)
    layers = [one[len(one) // 2] for one in _spread([*kinds.values()], PANELS)]
    tasks = _spread([*enumerate(measured.tasks)], TASKS)
    size = (2.6 * len(layers) + 0.6, 1.1 * len(tasks) + 1)
    figure: Figure
    figure, axes = pyplot.subplots(len(tasks), len(layers), figsize=size, squeeze=False, sharex="col", sharey="col")
    share = measured.watching.top_share
    for column, layer in zip(axes.T, layers, strict=True):
        n = stage.layers[layer].n
        order = n[0].argsort(descending=True, stable=True)
        relative, top = (n[:, order] * n.shape[1]).numpy(), top_rows(n, share)[:, order].numpy()
        for panel, (index, _) in zip(column, tasks, strict=True):
            _draw_rows(panel, relative[index], top[index], COLOURS[index % len(COLOURS)])
            panel.axvline(share * n.shape[1], color="0.4", linewidth=0.8, linestyle=":")
        column[0].set_title(_short(layer))
        column[0].set_ylim(0, np.quantile(relative, 0.998) * 1.1)
        column[-1].set_xlabel(f"{n.shape[1]:,} rows, by magnitude on {measured.tasks[0]}")
    for panel, (_, task) in zip(axes[:, 0], tasks, strict=True):
        panel.set_ylabel(task)
    figure.suptitle(
        f"Output magnitude of each row relative to the mean ({stage.name}); coloured: the task's top {share:.0%}",
        size=9,
    )
    return figure


def _draw_rows(panel: Any, relative: NDArray[np.float64], top: NDArray[np.bool_], colour: str) -> None:
    places = np.arange(len(relative))
    for chosen, shade in ((~top, "0.75"), (top, colour)):
        panel.vlines(places[chosen], 0, relative[chosen], color=shade, linewidth=0.7, rasterized=len(places) > 500)
    panel.axhline(1, color="0.4", linewidth=0.6)
    panel.set_xlim(-0.01 * len(relative), 1.01 * len(relative))
    panel.set_xticks([])


def distances_figure(found: Mapping[str, Any]) -> Figure:
    """How far the tasks' distributions differ, by three measures, and by depth; the last stage's."""
    from matplotlib import pyplot

    stage, tasks = found["stages"][-1], found["tasks"]
    side = max(2.6, 0.32 * len(tasks) + 1)
    figure: Figure
    figure, axes = pyplot.subplots(2, 2, figsize=(2 * side + 2, 2 * side + 0.6))
    chance = 100 * found["chance"]
    shared = f"top {found['top_share']:.0%} of rows shared (%; by chance {chance:.0f})"
    for panel, name, title, scale, ends, form in (
        (axes[0, 0], "overlap", shared, 100, (chance, 100), ".0f"),
        (axes[0, 1], "jensen_shannon", "Jensen-Shannon divergence (mbit)", 1000, (0, None), ".0f"),
        (axes[1, 0], "rank_correlation", "rank correlation", 1, (0, 1), ".2f"),
    ):
        image = panel.imshow(scale * np.array(stage[name], dtype=float), cmap="cividis", vmin=ends[0], vmax=ends[1])
        panel.set_title(title)
        _label_matrix(panel, image, tasks, form)
    _draw_depths(axes[1, 1], found, stage)
    figure.suptitle(f"Distances between tasks, mean over layers ({stage['stage']})", size=9)
    return figure


def _label_matrix(panel: Any, image: Any, tasks: Sequence[str], form: str) -> None:
    """Name rows and columns, and write each value into its cell."""
    ticks = range(len(tasks))
    panel.set_xticks(ticks, tasks, rotation=45, ha="right")
    panel.set_yticks(ticks, tasks)
    panel.spines[:].set_visible(False)
    values = image.get_array()
    for row in ticks if len(tasks) <= 15 else ():
        for column in ticks:
            shade = "black" if image.norm(values[row, column]) > 0.5 else "white"
            panel.text(column, row, f"{values[row, column]:{form}}", ha="center", va="center", color=shade, size=7)


def _draw_depths(panel: Any, found: Mapping[str, Any], stage: Mapping[str, Any]) -> None:
    """The share of top rows that two tasks share, and that two batches of one task share, block by block."""
    lines: dict[str, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for layer, one in stage["layers"].items():
        depth = depth_of(layer)
        if depth is not None:
            role = found["layers"][layer]["role"].replace("_", "-")
            lines[f"{stack_of(layer).partition('.')[0]} {role}"][depth].append(one)
    for index, (name, by_depth) in enumerate(lines.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "markersize": 3}
        for figure, how in (("overlap", {"marker": "o", "label": name}), ("persistence", {"linestyle": "--"})):
            values = {depth: [one[figure] for one in by_depth[depth] if one[figure] is not None] for depth in by_depth}
            known = {depth: 100 * fmean(values[depth]) for depth in sorted(values) if values[depth]}
            panel.plot([*known], [*known.values()], **style, **how)
    panel.axhline(100 * found["chance"], color="0.4", linewidth=0.8, linestyle=":")
    panel.set_ylim(0, 102)
    panel.set_xlabel("block")
    panel.set_title("shared by two tasks (line), by two batches\nof a task (dashed), by chance (dotted), %")
    panel.xaxis.get_major_locator().set_params(integer=True)
    if lines:
        panel.legend(frameon=False, fontsize=7)


def stages_figure(measured: Magnitudes, found: Mapping[str, Any]) -> Figure:
    """What each stage changed: which of a task's top rows stayed, and which rows moved, by their magnitude."""
    from matplotlib import pyplot

    figure: Figure
    figure, (kept, moved) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    stages = [stage for stage in found["stages"] if stage["shift"]]
    names = [stage["stage"] for stage in stages]
    for index, task in enumerate(found["tasks"]):
        values = [100 * stage["shift"]["overlap"][index] for stage in stages]
        kept.plot(names, values, **_line(index), marker="o", markersize=3, label=task)
    kept.axhline(100 * found["chance"], color="0.4", linewidth=0.8, linestyle=":")
    kept.set_ylim(0, 102)
    kept.tick_params(axis="x", rotation=30)
    kept.set_title("top rows of a task kept from the stage before (%; dotted: by chance)")
    kept.legend(frameon=False, fontsize=7, ncols=1 + len(found["tasks"]) // 8)
    by_name = {stage.name: stage for stage in measured.stages}
    for index, stage in enumerate(stage for stage in measured.stages if stage.moved):
        curve = 100 * movement_curve(measured.tasks, by_name[str(stage.since)], stage)
        moved.plot(range(len(curve)), curve, **_line(index), label=stage.name)
    moved.plot([0, 100], [0, 100], color="0.4", linewidth=0.8, linestyle=":")
    moved.axvline(100 * measured.watching.top_share, color="0.4", linewidth=0.8, linestyle=":")
    moved.set_xlabel("rows, from the largest magnitude before the stage (%)")
    moved.set_title("their share of all rows' squared movement (%; dotted: by chance)")
    if moved.get_legend_handles_labels()[0]:
        moved.legend(frameon=False, fontsize=7)
    return figure


def _line(index: int) -> dict[str, str]:
    """Colour and dashes of a line among many."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def movement_curve(tasks: Sequence[str], before: StageMagnitudes, stage: StageMagnitudes) -> NDArray[np.float64]:
    """What share of the squared movement the rows with the largest magnitudes before had: at 0 to 100 % of the rows.

    The mean over layers; a layer that did not move is left out.
    """
    learned = [index for index, task in enumerate(tasks) if task in stage.learned]
    curves = [*_curves(learned, before, stage)] or [np.zeros(101)]
    return np.asarray(np.mean(curves, axis=0))


def _curves(learned: Sequence[int], before: StageMagnitudes, stage: StageMagnitudes) -> Iterator[NDArray[np.float64]]:
    for layer, moved in stage.moved.items():
        if layer in before.layers and moved.any():
            order = before.layers[layer].n[learned].mean(dim=0).argsort(descending=True, stable=True)
            squares = np.concatenate([[0], (moved.double()[order] ** 2).numpy()]).cumsum()
            yield np.interp(np.linspace(0, 1, 101), np.linspace(0, 1, len(squares)), squares / squares[-1])


def _short(layer: str) -> str:
    """A layer's name with little enough of it to stand above a panel."""
    parts = layer.split(".")
    return layer if len(layer) <= 34 else f"{parts[0]}…{'.'.join(parts[-2:])} ({depth_of(layer)})"


def _spread(values: list[Any], most: int) -> list[Any]:
    """At most so many of the values, taken evenly from first to last."""
    if len(values) <= most:
        return values
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
