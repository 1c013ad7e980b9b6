"""`clkit ls`: plain lines in a pipe, a table on a terminal, JSON for scripts."""

from __future__ import annotations

import json

import pytest

from clkit.cli.ls import ls
from clkit.recipe.shipped import KINDS
from tests.cli.verbs import call


def test_one_kind_is_a_line_per_entry_with_a_tab() -> None:
    result = call(ls, "recipes")
    assert result.exit_code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert {"quickstart", "t5_order1"} <= {row[0] for row in rows}
    assert all(len(row) == 2 and row[1] for row in rows)


def test_all_kinds_begin_with_their_kind() -> None:
    rows = [line.split("\t") for line in call(ls).stdout.splitlines()]
    assert list(dict.fromkeys(row[0] for row in rows)) == list(KINDS)
    named = {tuple(row[:2]) for row in rows}
    assert {("strategies", "migu"), ("benchmarks", "long_cl"), ("models", "embedded:tiny-t5")} <= named
    assert all(row[2] for row in rows)


def test_json() -> None:
    listed = json.loads(call(ls, "strategies", "--json").stdout)
    assert list(listed) == ["strategies"]
    assert listed["strategies"]["migu"].startswith("Magnitude-based gradient updating")
    assert list(json.loads(call(ls, "--json").stdout)) == list(KINDS)


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clkit.cli.ls._on_terminal", lambda: True)
    output = call(ls, "models").stdout
    assert output.splitlines()[0].strip() == "models"
    assert "embedded:tiny-t5" in output
    assert "\t" not in output


def test_an_unknown_kind() -> None:
    result = call(ls, "model")
    assert result.exit_code == 2
    assert "'model' is not one of" in result.stderr
