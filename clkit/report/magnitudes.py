"""Tables of output magnitudes: how far tasks share their top rows, stage by stage and layer by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clkit.report.tables import MISSING, wide_table

#: How the figures of a summary are headed, and how they are shown; what they mean stands below the tables.
BETWEEN = {"overlap": "shared", "jensen_shannon": "JS", "rank_correlation": "rank", "persistence": "steady"}
SHIFT = {"overlap": "kept", "jensen_shannon": "JS", "rank_correlation": "rank"}
MOVED = {"in_top_rows": "in top", "rank_correlation": "moved"}
LEGEND = (
    "shared: top rows (%) that two tasks have in common; JS: Jensen-Shannon divergence of their distributions in bits; "
    "rank: Spearman's correlation of the rows' ranks; steady: top rows (%) of a batch that the next one of the same "
    "task has too."
)
STAGES_LEGEND = (
    "kept, JS, rank: a task's distribution against that of the stage before, mean over tasks; in top: share (%) of "
    "the squared movement of all rows that fell to the top rows of the tasks just learned; moved: rank correlation of "
    "a row's movement with its magnitude before."
)
LAYERS_LEGEND = "top: share (%) of the whole magnitude that the top rows hold."


def magnitude_tables(found: Mapping[str, Any], width: int, *, every: bool) -> Iterator[RenderableType]:
    """What a terminal shows of a summary (`clkit.report.magnitude_data`).

    Args:
        every: a row for each layer, rather than for each kind.
    """
    last = found["stages"][-1]
    top, chance = f"top {found['top_share']:.0%} of rows", f"by chance {100 * found['chance']:.0f}"
    yield Text(f"{last['stage']}: {top} shared by two tasks, mean over layers ({chance})")
    rows = [(Text(task), [*map(_percent, row)]) for task, row in zip(found["tasks"], last["overlap"], strict=True)]
    yield from wide_table(found["tasks"], rows, width)
    yield ""
    if len(found["stages"]) > 1:
        heads = [*BETWEEN.values(), *SHIFT.values(), *MOVED.values()]
        yield from wide_table(heads, [(Text(one["stage"]), stage_cells(one)) for one in found["stages"]], width)
        yield from ("", Text(f"{LEGEND} {STAGES_LEGEND}", style="italic"), "")
    kinds: dict[str, list[str]] = defaultdict(list)
    for layer in last["layers"]:
        kinds[layer if every else kind_of(layer)].append(layer)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for head in ("layers", "rows", "top", *BETWEEN.values()):
        table.add_column(head, justify="right", no_wrap=True)
    for name, layers in kinds.items():
        table.add_row(Text(name), *_layer_cells(found, last, layers))
    yield table
    yield from ("", Text(LAYERS_LEGEND if len(found["stages"]) > 1 else f"{LEGEND} {LAYERS_LEGEND}", style="italic"))


def kind_of(layer: str) -> str:
    """A layer's name without its number: layers of a kind stand at the same place in each block."""
    return re.sub(r"\.\d+\.", ".*.", layer, count=1)


def stage_cells(stage: Mapping[str, Any]) -> list[Text]:
    """A stage's figures, means over layers, in the order of `BETWEEN`, `SHIFT` and `MOVED`."""
    layers = [*stage["layers"].values()]
    shift, moved = ([one[part] or {} for one in layers] for part in ("shift", "moved"))
    parts = ((BETWEEN, layers), (SHIFT, shift), (MOVED, moved))
    return [_cell(name, (one.get(name) for one in values)) for heads, values in parts for name in heads]


def _layer_cells(found: Mapping[str, Any], stage: Mapping[str, Any], layers: list[str]) -> list[Text]:
    figures = [stage["layers"][layer] for layer in layers]
    cells = [Text(str(len(layers))), Text(str(found["layers"][layers[0]]["rows"]))]
    return cells + [_cell(name, (one[name] for one in figures)) for name in ("top_mass", *BETWEEN)]


def _cell(name: str, values: Iterable[float | None]) -> Text:
    known = [value for value in values if value is not None]
    if not known:
        return Text(MISSING)
    mean = fmean(known)
    decimals = {"jensen_shannon": 3, "rank_correlation": 2}.get(name)
    return _percent(mean) if decimals is None else Text(f"{mean:.{decimals}f}")


def _percent(value: float) -> Text:
    return Text(f"{100 * value:.1f}")
