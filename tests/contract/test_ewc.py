"""EWC keeps the contract with one running Fisher and with one per task; the toy's small Fisher needs a large λ."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract


class TestEWC(StrategyContract):
    entry: ClassVar = {"name": "ewc", "ewc_lambda": 1e4, "decay": 0.9, "examples": 10}
    first_task_is_plain = True
    logged: ClassVar = {"ewc_penalty"}


class TestEWCPerTask(TestEWC):
    entry: ClassVar = {"name": "ewc", "ewc_lambda": 1e4, "fisher": "per_task", "examples": None, "labels": "model"}
    settings: ClassVar = ("seq2seq",)
