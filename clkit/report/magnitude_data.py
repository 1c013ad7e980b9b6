"""What `clkit inspect-magnitudes` measured, as data: a summary for JSON, and every row of every layer in Parquet.

::

    import pandas
    rows = pandas.read_parquet("runs/quickstart-42/inspect/magnitudes.parquet")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clkit.engine.inspection import LayerMagnitudes, Magnitudes, StageMagnitudes
from clkit.models.depths import depth_of
from clkit.models.distributions import chance_overlap, jensen_shannon, overlap, rank_correlation, top_count, top_rows
from clkit.run.atomic import replacing

if TYPE_CHECKING:
    import pyarrow

#: What each column of the Parquet file holds; a line per stage, layer, task and row of the layer's weight.
COLUMNS = {
    "stage": "the stage whose model was measured, by its folder's name",
    "layer": "the linear layer's name in the base model",
    "role": "what the layer is for: attention, feed_forward, ...",
    "depth": "the block that it lies in, from 0; null outside of all blocks",
    "task": "the task whose training examples were read",
    "row": "the row of the weight, from 0, which gives this element of the output",
    "magnitude": "its L1-normalised output magnitude: those of a layer and task sum to 1",
    "top": "whether it is one of the top rows",
    "chosen": "the share of batches in which it was one",
    "moved": "how far it moved since the stage before, as Euclidean norm; null where that is not known",
}
_Figures = dict[str, torch.Tensor]


def summary(measured: Magnitudes) -> dict[str, Any]:
    """What is printed and drawn, as plain values: of each stage the means over layers, and of each layer over tasks."""
    share = measured.watching.top_share
    layers: dict[str, dict[str, Any]] = {}
    for layer, role in measured.roles.items():
        rows = next(stage.layers[layer] for stage in measured.stages if layer in stage.layers).n.shape[1]
        mean, std = chance_overlap(rows, top_count(rows, share))
        layers[layer] = {"role": role, "depth": depth_of(layer), "rows": rows, "chance": {"mean": mean, "std": std}}
    by_name = {stage.name: stage for stage in measured.stages}
    return {
        "tasks": list(measured.tasks),
        "top_share": share,
        "examples": measured.watching.examples,
        "batch": measured.watching.batch,
        "chance": sum(one["chance"]["mean"] for one in layers.values()) / len(layers),
        "layers": layers,
        "stages": [_stage(stage, by_name.get(stage.since or ""), measured.tasks, share) for stage in measured.stages],
    }


def _stage(
    stage: StageMagnitudes, before: StageMagnitudes | None, tasks: Sequence[str], share: float
) -> dict[str, Any]:
    """One stage's part of the summary."""
    compared = {layer: _compared(one, share) for layer, one in stage.layers.items()}
    shift: dict[str, _Figures] = {}
    moved: dict[str, _Figures] = {}
    learned = torch.tensor([task in stage.learned for task in tasks])
    for layer, one in stage.layers.items():
        old = before.layers.get(layer) if before else None
        if old is not None and old.n.shape == one.n.shape:
            shift[layer] = _shift(old.n, one.n, share)
            if layer in stage.moved and learned.any():
                moved[layer] = _moved(old.n[learned].mean(dim=0), stage.moved[layer], share)
    return {
        "stage": stage.name,
        "since": stage.since,
        "learned": list(stage.learned),
        **{name: _plain(value) for name, value in _mean(compared).items()},
        "shift": {name: _plain(value) for name, value in _mean(shift).items()} or None,
        "moved": {name: _plain(value) for name, value in _mean(moved).items()} or None,
        "layers": {
            layer: {
                **_each(one),
                "shift": _each(shift[layer]) if layer in shift else None,
                "moved": _each(moved[layer]) if layer in moved else None,
            }
            for layer, one in compared.items()
        },
    }


def _compared(layer: LayerMagnitudes, share: float) -> _Figures:
    """The tasks' distributions in one layer, each by itself and each with each."""
    top = top_rows(layer.n, share)
    return {
        "top_mass": (layer.n * top).sum(dim=1),
        "persistence": layer.persistence,
        "overlap": overlap(top),
        "jensen_shannon": jensen_shannon(layer.n),
        "rank_correlation": rank_correlation(layer.n),
    }


def _shift(before: torch.Tensor, after: torch.Tensor, share: float) -> _Figures:
    """How far each task's distribution lies from where it was: by each measure, one number per task."""
    pairs = torch.stack([before, after], dim=1)
    return {
        "overlap": torch.stack([overlap(top_rows(pair, share))[0, 1] for pair in pairs]),
        "jensen_shannon": torch.stack([jensen_shannon(pair)[0, 1] for pair in pairs]),
        "rank_correlation": torch.stack([rank_correlation(pair)[0, 1] for pair in pairs]),
    }


def _moved(n: torch.Tensor, moved: torch.Tensor, share: float) -> _Figures:
    """Which rows moved: ``n`` is their magnitude before, on the tasks that were learned; ``moved`` is ‖ΔW_row‖."""
    squares = moved.double() ** 2
    return {
        "norm": moved.mean(),
        "in_top_rows": (squares * top_rows(n, share)).sum() / squares.sum(),  # NaN where nothing moved
        "rank_correlation": rank_correlation(torch.stack([n, moved]))[0, 1],
    }


def _mean(layers: Mapping[str, _Figures]) -> _Figures:
    """Each figure's mean over the layers that have it."""
    names = next(iter(layers.values()), {})
    return {name: torch.stack([one[name].double() for one in layers.values()]).nanmean(dim=0) for name in names}


def _each(figures: _Figures) -> dict[str, float | None]:
    """One layer's figures as one number each: the mean over tasks, or over all pairs of two tasks."""
    found = {}
    for name, value in figures.items():
        pairs = value[~torch.eye(len(value), dtype=torch.bool)] if value.dim() == 2 else value
        found[name] = _plain(pairs.double().nanmean())
    return found


def _plain(value: torch.Tensor) -> Any:
    """Numbers as JSON has them: null where there is none."""
    if value.dim():
        return [_plain(one) for one in value]
    return float(value) if value.isfinite() else None


def write_rows(measured: Magnitudes, path: Path) -> None:
    """Write every row of every layer as Parquet, with what each column holds in its metadata."""
    import pyarrow
    from pyarrow import parquet

    name = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    kinds = {"row": pyarrow.int32(), "depth": pyarrow.int16(), "top": pyarrow.bool_()}
    kinds |= dict.fromkeys(("magnitude", "chosen", "moved"), pyarrow.float32())
    schema = pyarrow.schema(
        pyarrow.field(column, kinds.get(column, name), metadata={"description": about})
        for column, about in COLUMNS.items()
    )
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for stage in measured.stages:
            tables = [_rows(measured, stage, layer, schema) for layer in stage.layers]
            writer.write_table(pyarrow.concat_tables(tables).unify_dictionaries())


def _rows(measured: Magnitudes, stage: StageMagnitudes, layer: str, schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    own = stage.layers[layer]
    tasks, rows = own.n.shape
    moved = stage.moved.get(layer, torch.full((rows,), torch.nan)).repeat(tasks).numpy()
    same = {"stage": stage.name, "layer": layer, "role": measured.roles[layer], "depth": depth_of(layer)}
    columns = {
        name: pyarrow.repeat(pyarrow.scalar(value, schema.field(name).type), own.n.numel())
        for name, value in same.items()
    }
    columns |= {
        "task": pyarrow.array([task for task in measured.tasks for _ in range(rows)]).dictionary_encode(),
        "row": torch.arange(rows, dtype=torch.int32).repeat(tasks).numpy(),
        "magnitude": own.n.flatten().float().numpy(),
        "top": top_rows(own.n, measured.watching.top_share).flatten().numpy(),
        "chosen": own.chosen.flatten().numpy(),
        "moved": pyarrow.array(moved, from_pandas=True),  # NaN is null
    }
    return pyarrow.table(columns, schema=schema)
