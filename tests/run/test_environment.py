"""What a run records of where it was made."""

from __future__ import annotations

import json

import pytest

from clkit.run.environment import environment


def test_environment_holds_no_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = environment(42, ["clkit", "train", "quickstart"])
    assert "hf_secret" not in json.dumps(found)
    assert set(found) == {"versions", "platform", "cpus", "seed", "command", "started"}
    assert found["versions"]["torch"]
    assert found["command"] == ["clkit", "train", "quickstart"]
