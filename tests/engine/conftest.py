"""Fixtures that the engine's tests share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dropout_t5(tmp_path_factory: pytest.TempPathFactory, toy_t5: Path) -> Path:
    """The toy model with dropout, so that training draws random numbers."""
    folder = tmp_path_factory.mktemp("dropout") / "t5"
    shutil.copytree(toy_t5, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.2}))
    return folder
