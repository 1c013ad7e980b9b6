"""Replay keeps the contract with every selection; the toy tasks have 24 examples, of which 2 % would be one."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract


class TestReplay(StrategyContract):
    entry: ClassVar = {"name": "replay"}
    first_task_is_plain = True
    logged: ClassVar = {"replay_share"}


class TestReplayBalanced(TestReplay):
    entry: ClassVar = {**TestReplay.entry, "share": 0.25, "selection": "balanced", "ratio": 0.4}


class TestReplayReservoir(TestReplay):
    entry: ClassVar = {**TestReplay.entry, "selection": "reservoir", "capacity": 10, "ratio": 1}
