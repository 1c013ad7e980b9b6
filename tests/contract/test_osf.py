"""OSF keeps the contract with its defaults, and from the first task on as peft does it."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract


class TestOSF(StrategyContract):
    entry: ClassVar = {"name": "osf"}
    first_task_is_plain = True
    logged: ClassVar = {"osf_preserved_share"}


class TestOSFFromTheFirstTask(TestOSF):
    entry: ClassVar = {
        "name": "osf",
        "preserved": 0.3,
        "growth": 0.3,
        "projection": "gradient",
        "first_task": "protected",
    }
    first_task_is_plain = False
    settings: ClassVar = ("seq2seq",)
