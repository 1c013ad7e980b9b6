"""The C functions are built where they can be; what they compute is tested with what they compute it for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from clkit.models import kernels as module
from clkit.models.kernels import kernels


@pytest.fixture(autouse=True)
def built_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.cache_clear()
    yield
    kernels.cache_clear()


def test_they_are_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if kernels() is None:
        pytest.skip("there is no C compiler here")
    (library,) = (tmp_path / "clkit").iterdir()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    kernels.cache_clear()
    assert kernels() is not None
    assert [*(tmp_path / "clkit").iterdir()] == [library]


def fails(*_: Any, **__: Any) -> None:
    raise subprocess.CalledProcessError(1, "cc")


def test_without_a_compiler_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert kernels() is None


def test_where_the_compiler_fails_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module.subprocess, "run", fails)
    assert kernels() is None


def test_where_nothing_can_be_written_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernels() is None
