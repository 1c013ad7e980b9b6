"""The summary, the tables and the Parquet file of magnitudes whose distances are known."""

from __future__ import annotations

import json
import math
import re
from io import StringIO
from pathlib import Path

import pandas
import pytest
import torch
from pyarrow import parquet
from rich.console import Console

from clkit.engine.inspection import LayerMagnitudes, Magnitudes, StageMagnitudes, Watching
from clkit.report.magnitude_data import COLUMNS, summary, write_rows
from clkit.report.magnitude_figures import movement_curve, save_figures
from clkit.report.magnitudes import magnitude_tables

N = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.1, 0.4]])
LAYER = "encoder.block.1.layer.0.SelfAttention.q"


def layer(n: torch.Tensor, persistence: float = 0.75) -> LayerMagnitudes:
    return LayerMagnitudes(n, (n > 0.25).float(), torch.full((len(n),), persistence))


@pytest.fixture
def known() -> Magnitudes:
    """Two tasks over four rows; the stage turned the first task's order round and moved its largest row only."""
    after = torch.stack([N[0].flip(0), N[1]])
    start = StageMagnitudes("zero-shot", {LAYER: layer(N), "lm_head": layer(N)})
    moved = {LAYER: torch.tensor([3.0, 0.0, 0.0, 0.0]), "lm_head": torch.tensor([1.0, 1.0, 1.0, 1.0])}
    end = StageMagnitudes("01-a", {LAYER: layer(after), "lm_head": layer(N)}, "zero-shot", ["a"], moved)
    roles = {LAYER: "attention", "lm_head": "lm_head"}
    return Magnitudes(["a", "b"], Watching(["attention"], top_share=0.5), roles, "all", [start, end])


def test_known_summary(known: Magnitudes) -> None:
    found = summary(known)
    json.dumps(found, allow_nan=False)
    assert found["layers"][LAYER] == {
        "role": "attention", "depth": 1, "rows": 4, "chance": {"mean": 0.5, "std": pytest.approx(3**-0.5 / 2)}
    }  # fmt: skip
    start, end = found["stages"]
    assert start["overlap"] == [[1.0, 0.5], [0.5, 1.0]]
    assert start["top_mass"] == pytest.approx([0.7, 0.8])
    assert start["persistence"] == [0.75, 0.75]
    assert start["shift"] is start["moved"] is None
    own = end["layers"][LAYER]
    assert own["shift"] == {
        "overlap": 0.5,  # all of task a's top rows went, all of task b's stayed
        "jensen_shannon": pytest.approx(
            (
                0.5 * math.log2(1 / 0.25)
                - 0.4 * math.log2(1 / 0.4)
                - 0.3 * math.log2(1 / 0.3)
                - 0.2 * math.log2(1 / 0.2)
                - 0.1 * math.log2(1 / 0.1)
                + 0.5 * math.log2(1 / 0.25)
            )
            / 2
        ),
        "rank_correlation": pytest.approx(0.0),  # −1 and 1
    }
    assert own["moved"]["in_top_rows"] == 1.0
    assert own["moved"]["norm"] == 0.75
    assert end["layers"]["lm_head"]["moved"]["in_top_rows"] == 0.5
    assert end["layers"]["lm_head"]["moved"]["rank_correlation"] is None  # all moved alike
    assert end["shift"]["overlap"] == [0.5, 1.0]
    assert end["layers"]["lm_head"]["shift"]["jensen_shannon"] == 0.0


def test_one_task_and_one_batch_have_nothing_to_share() -> None:
    alone = StageMagnitudes("zero-shot", {"l": layer(N[:1], float("nan"))})
    found = summary(Magnitudes(["a"], Watching(["l"]), {"l": "other"}, "", [alone]))
    assert found["stages"][0]["layers"]["l"]["overlap"] is None
    assert found["stages"][0]["persistence"] == [None]


def test_parquet_holds_every_row_and_says_what(known: Magnitudes, tmp_path: Path) -> None:
    write_rows(known, tmp_path / "rows.parquet")
    rows = pandas.read_parquet(tmp_path / "rows.parquet")
    assert [*rows.columns] == [*COLUMNS]
    assert len(rows) == 2 * 2 * 2 * 4
    one = rows[(rows.stage == "01-a") & (rows.layer == LAYER) & (rows.task == "a")]
    assert one.magnitude.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert one.row.tolist() == [0, 1, 2, 3]
    assert one.top.tolist() == [False, False, True, True]
    assert one.moved.tolist() == [3.0, 0.0, 0.0, 0.0]
    assert one.depth.unique().tolist() == [1]
    assert rows[rows.stage == "zero-shot"].moved.isna().all()
    assert rows[rows.layer == "lm_head"].depth.isna().all()
    schema = parquet.read_schema(tmp_path / "rows.parquet")
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == COLUMNS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_the_share_of_movement_by_magnitude(known: Magnitudes) -> None:
    start, end = known.stages
    curve = movement_curve(known.tasks, start, end)
    # One layer moved its largest row alone (all at a quarter of the rows), the other all rows alike.
    assert curve[[0, 25, 50, 100]].tolist() == pytest.approx([0, (1 + 0.25) / 2, (1 + 0.5) / 2, 1])


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit(known: Magnitudes, width: int) -> None:
    console = Console(file=StringIO(), width=width)
    for table in magnitude_tables(summary(known), width, every=False):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "01-a: top 50% of rows shared by two tasks, mean over layers (by chance 50)" in text
    assert re.search(r"01-a .* 75\.0 .* 75\.0 ", text)
    assert "encoder.block.*.layer.0.SelfAttention.q" in text or width == 80


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_are_the_same_each_time(known: Magnitudes, suffix: str, tmp_path: Path) -> None:
    first, again = ([path.read_bytes() for path in save_figures(known, summary(known), tmp_path, suffix)] for _ in "12")
    assert first == again
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{one}.{suffix}" for one in ("distribution", "distances", "stages")
    }
