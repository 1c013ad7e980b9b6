"""MIGU keeps the contract, in its published form, frozen, and as two of its controls."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract
from tests.contract.settings import SETTINGS


class TestMIGU(StrategyContract):
    entry: ClassVar = {"name": "migu", "threshold": 0.7}
    first_task_is_plain = True
    logged: ClassVar = {"migu_masked_share"}
    settings: ClassVar = tuple(SETTINGS)


class TestMIGUUpdate(TestMIGU):
    entry: ClassVar = {**TestMIGU.entry, "mask": "update", "first_task": "masked"}
    first_task_is_plain = False
    settings: ClassVar = ("seq2seq",)


class TestMIGURandom(TestMIGU):
    entry: ClassVar = {**TestMIGU.entry, "source": "random"}
    settings: ClassVar = ("seq2seq",)


class TestMIGUPersistentRandom(TestMIGU):
    entry: ClassVar = {**TestMIGU.entry, "source": "persistent_random"}
    settings: ClassVar = ("seq2seq",)


class TestMIGUHeld(TestMIGU):
    """Stopped after four steps, in the middle of rows that are held for three."""

    entry: ClassVar = {**TestMIGU.entry, "mask": "update", "hold": 3}
    settings: ClassVar = ("seq2seq",)
