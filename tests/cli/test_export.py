"""`clkit export`: the verb hands on what was asked."""

from __future__ import annotations

import json
from pathlib import Path

from clkit.cli.export import export
from tests.cli.verbs import call
from tests.toy import Finished, ToyRecipe


def test_options_reach_the_export(toy: ToyRecipe, finished: Finished, tmp_path: Path) -> None:
    run = finished(toy(tuning={"method": "lora", "rank": 2}))
    out = tmp_path / "out"
    for options in ([], ["--force", "--stage", "1", "--adapter"]):
        result = call(export, str(run.path), str(out), *options)
        assert result.exit_code == 0, result.exception
        assert result.stderr.splitlines()[-1] == f"wrote {out}"
    said = json.loads((out / "clkit_export.json").read_text())
    assert (said["recipe"], said["stage"], said["tasks"]) == ("toy", "first", ["first"])
    assert "adapter_model.safetensors" in said["files"]
