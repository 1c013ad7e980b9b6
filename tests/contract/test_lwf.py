"""LwF keeps the contract on every tuning."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract


class TestLwF(StrategyContract):
    entry: ClassVar = {"name": "lwf"}
    first_task_is_plain = True
    logged: ClassVar = {"lwf_loss"}
