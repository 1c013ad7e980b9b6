"""`done.json` and its manifest: any later change of a stage is told."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from clkit.errors import RunError
from clkit.run.seal import Checked, Done, FileSeal, seal_files

PAYLOAD = {"row": [0.1, None], "steps": 3}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"\x00\x01")
    (tmp_path / "predictions.jsonl").write_text("{}\n")
    Done(PAYLOAD, seal_files(tmp_path)).write(tmp_path)
    return tmp_path


def states(stage: Path) -> dict[str, str]:
    return {found.path: found.state for found in Done.read(stage).check(stage)}


def test_round_trip(stage: Path):
    done = Done.read(stage)
    assert done.payload == PAYLOAD
    assert done.files == {
        "model/weights": FileSeal(2, sha256(b"\x00\x01").hexdigest()),
        "predictions.jsonl": FileSeal(3, sha256(b"{}\n").hexdigest()),
    }
    assert done.model_kept


def test_a_whole_stage(stage: Path):
    assert states(stage) == {"model/weights": "whole", "predictions.jsonl": "whole"}


def test_each_kind_of_damage(stage: Path):
    (stage / "model" / "weights").write_bytes(b"\x00\x03")
    (stage / "predictions.jsonl").unlink()
    (stage / "notes.txt").write_text("")
    (stage / "checkpoints").mkdir()
    (stage / "checkpoints" / "x").write_text("")
    assert list(Done.read(stage).check(stage)) == [
        Checked("model/weights", "changed", "of the right size, but its sha256 differs"),
        Checked("predictions.jsonl", "missing", "3 bytes"),
        Checked("notes.txt", "unknown"),
    ]
    (stage / "model" / "weights").write_bytes(b"")
    assert next(Done.read(stage).check(stage)) == Checked("model/weights", "changed", "0 bytes instead of 2")


@pytest.mark.parametrize(
    "change",
    [
        {"row": [0.2, None]},
        {"files": {}},
        {"model_kept": False},
        {"sha256": "0" * 64},
        {"sha256": None},
        {"more": "\ud800"},
    ],
)
def test_a_changed_done_json_is_told(stage: Path, change: dict[str, object]):
    content = {**json.loads((stage / "done.json").read_text()), **change}
    (stage / "done.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"done\.json was changed after it was written: its sha256 does not match"):
        Done.read(stage)


def test_its_form_does_not_matter(stage: Path):
    content = json.loads((stage / "done.json").read_text())
    (stage / "done.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert Done.read(stage).payload == PAYLOAD


def test_every_single_byte_of_it_counts(stage: Path):
    """Flip one bit of each byte: it is refused, or reads as the very same, as a changed space does."""
    original = (stage / "done.json").read_bytes()
    refused = 0
    for place in range(len(original)):
        (stage / "done.json").write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        try:
            assert Done.read(stage).payload == PAYLOAD
        except RunError:
            refused += 1
    assert refused > len(original) / 2


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "nan"])
def test_damaged(stage: Path, content: str):
    (stage / "done.json").write_text(content)
    with pytest.raises(RunError, match=r"done\.json") as refused:
        Done.read(stage)
    assert "\n" not in str(refused.value)


def test_a_stage_under_another_name_is_no_stage_of_the_run(tmp_path: Path) -> None:
    """Renamed, or copied to a further number, it would be taken for what another task left."""
    payload = {"row": [1.0, None], "matrix": {"protocol": "sequential", "tasks": ["a", "b"]}}
    for name in ("01-a", "01-b", "02-a", "03-b", "01-A"):
        folder = tmp_path / name
        folder.mkdir()
        Done(payload, {}).write(folder)
        if name == "01-a":
            assert Done.read(folder).payload == payload
        else:
            with pytest.raises(RunError, match=f"{name}: no stage of this run has that number and name"):
                Done.read(folder)
