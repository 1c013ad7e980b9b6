"""`clkit watch` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clkit.cli.watch import watch
from clkit.errors import RunError
from tests.cli.verbs import call
from tests.toy import Finished, ToyRecipe


def test_the_newest_run_and_what_is_none(
    toy: ToyRecipe, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(call(watch).exception, RunError)
    assert isinstance(call(watch, "nowhere").exception, RunError)
    shutil.copytree(finished(toy(training={"epochs": 0.4}, data={"test_per_task": 4})).path, "runs/toy")
    done = call(watch, "--json-lines")
    assert done.exit_code == 0, done.exception
    assert [json.loads(line)["run"] for line in done.stdout.splitlines()][-1] == "runs/toy"
    assert call(watch, "runs").stdout.endswith("runs/toy: finished\n")
