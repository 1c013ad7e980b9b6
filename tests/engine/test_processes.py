"""Two processes (gloo) train as one does on the same global batch, and only one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from clkit.engine.sequence import train
from clkit.recipe.saving import recipe_yaml
from clkit.runs import RunFolder
from tests.toy import toy_recipe


def test_two_processes_equal_one(tmp_path: Path, toy_t5: Path) -> None:
    migu = [{"name": "migu", "mask": "update", "first_task": "masked"}]
    recipe = toy_recipe(tmp_path, toy_t5, strategies=migu, training={"epochs": 1.0})
    one = train(recipe, tmp_path / "one")
    path = tmp_path / "toy.yaml"
    path.write_text(recipe_yaml(recipe), "utf-8")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "clkit",
    ]
    done = subprocess.run(
        [*launch, "train", str(path), "--run", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("average_accuracy ") == 1

    two = RunFolder.open(tmp_path / "two")
    assert (two.path / "matrix.json").read_bytes() == (one.path / "matrix.json").read_bytes()
    for ours, theirs in zip(one.stages()[1:], two.stages()[1:], strict=True):
        a, b = (load_file(stage.folder / "model" / "model.safetensors") for stage in (ours, theirs))
        for name in a:
            # Sums over processes are rounded in another order; another mask would differ by whole learning rates.
            torch.testing.assert_close(a[name], b[name], atol=1e-3, rtol=0)
    shares = [[line.get("migu_masked_share") for line in run.read_log()] for run in (one, two)]
    assert shares[0] == shares[1]
