"""O-LoRA keeps the contract, with its orthogonality alone and with the norms of the adapter beside it."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.contract import StrategyContract


class TestOLoRA(StrategyContract):
    entry: ClassVar = {"name": "olora", "lambda1": 0.5}
    first_task_is_plain = True
    logged: ClassVar = {"olora_penalty", "olora_orthogonality"}


class TestOLoRANorm(TestOLoRA):
    entry: ClassVar = {**TestOLoRA.entry, "lambda2": 0.1}
    first_task_is_plain = False
    settings: ClassVar = ("seq2seq",)
    logged: ClassVar = {"olora_penalty", "olora_orthogonality", "olora_norm"}
