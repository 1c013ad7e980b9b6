"""Magnitudes on the page: read from where `clkit inspect-magnitudes` leaves them, or left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clkit.report.page.loud import read_loud
from clkit.run.folder import RunFolder

LAYER = {"overlap": 0.5, "jensen_shannon": 0.01, "rank_correlation": 0.25, "persistence": 0.75}
MOVED = {"in_top_rows": 0.6, "rank_correlation": 0.5}
STAGES = [
    {"stage": "zero-shot", "overlap": [[1, 0.2], [0.2, 1]], "layers": {"q": LAYER | {"shift": None, "moved": None}}},
    {"stage": "01-a", "overlap": [[1, 0.5], [0.5, 1]], "layers": {"q": LAYER | {"shift": LAYER, "moved": MOVED}}},
]
FOUND: dict[str, Any] = {"tasks": ["a", "b"], "top_share": 0.3, "chance": 0.31, "stages": STAGES}


def run_with(path: Path, text: str) -> RunFolder:
    (path / "inspect").mkdir(parents=True)
    (path / "inspect/magnitudes.json").write_text(text)
    return RunFolder(path)


def test_the_last_stage_and_a_row_for_each(tmp_path: Path):
    loud = read_loud(run_with(tmp_path / "run", json.dumps(FOUND)))
    assert loud is not None
    assert [[cell.text for cell in line.cells] for line in loud.shared.lines] == [["100.0", "50.0"], ["50.0", "100.0"]]
    assert "By chance it would be 31.0" in loud.shared.caption
    assert loud.rows[1] == ["01-a", "50.0", "0.010", "0.25", "75.0", "50.0", "0.010", "0.25", "60.0", "0.50"]
    assert len(loud.heads) == len(loud.rows[0]) == 10


def test_what_inspect_magnitudes_really_writes(tmp_path: Path, toy: Any, finished: Any):
    from clkit.cli.inspect_magnitudes import inspect_magnitudes
    from tests.cli.verbs import call

    run = finished(toy())
    copy = tmp_path / "run"
    copy.mkdir()
    result = call(inspect_magnitudes, str(run.path), "--out", str(copy / "inspect"), "--examples", "4")
    assert result.exit_code == 0, result.exception
    loud = read_loud(RunFolder(copy))
    assert loud is not None
    assert loud.shared.tasks == ["first", "second"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": [], "stages": []}', json.dumps(FOUND | {"tasks": ["a"]})])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, text: str):
    assert read_loud(run_with(tmp_path / "run", text)) is None


def test_a_run_without_any(tmp_path: Path):
    assert read_loud(RunFolder(tmp_path)) is None
