"""Replay keeps the contract with every selection; the toy tasks have 24 examples, of which 2 % would be one."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract
from tests.contract.settings import SETTINGS


class TestReplay(StrategyContract):
    entry: ClassVar = {"name": "replay"}
    first_task_is_plain = True
    logged: ClassVar = {"replay_share"}
    settings: ClassVar = tuple(SETTINGS)


class TestReplayBalanced(TestReplay):
    entry: ClassVar = {**TestReplay.entry, "share": 0.25, "selection": "balanced", "ratio": 0.4}
    settings: ClassVar = ("seq2seq",)


class TestReplayReservoir(TestReplay):
    entry: ClassVar = {**TestReplay.entry, "selection": "reservoir", "capacity": 10, "ratio": 1}
    settings: ClassVar = ("seq2seq",)
