"""What a run from Python leaves behind in its process, and shows beside what clkit shows: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.toy import ToyRecipe

PROGRAM = """
import gc, json, os, random, sys
import datasets, numpy, torch, transformers
from huggingface_hub import utils as hub

def switches():
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        dict(os.environ),
        str((random.getstate(), numpy.random.get_state()[1:3], torch.get_rng_state().tolist())),
        transformers.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
        datasets.are_progress_bars_disabled(),
        hub.are_progress_bars_disabled(),
        sys.path,
        gc.get_freeze_count(),
    ]

as_before = json.dumps(switches())
import clkit
recipe, folder = clkit.Recipe.model_validate_json(open(sys.argv[1]).read()), sys.argv[2]
failing = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": "/nowhere"})})
for one, run in ((failing, folder), (recipe, folder), (recipe, folder + "-quiet")):
    if run.endswith("quiet"):
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        torch.use_deterministic_algorithms(True)
        as_before = json.dumps(switches())
    try:
        clkit.evaluate(clkit.train(one, run))
    except clkit.ClkitError as error:
        print(error)
    assert json.dumps(switches()) == as_before, (as_before, switches())
    print("as before")
"""


def test_no_switch_is_left_on_and_no_bar_is_shown(toy: ToyRecipe, tmp_path: Path) -> None:
    """Neither where they stand as libraries leave them, nor where the caller has set them."""
    (tmp_path / "recipe.json").write_text(toy(training={"epochs": 1.0}).model_dump_json())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.json"), str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    refused, *as_before = ended.stdout.splitlines() or [ended.stderr]
    assert "/nowhere does not exist" in refused
    assert as_before == ["as before"] * 3, ended.stderr
    assert "%|" not in ended.stderr, ended.stderr
    assert json.loads((tmp_path / "run" / "matrix.json").read_text())["rows"]
