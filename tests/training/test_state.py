"""The strategies' state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from clkit.errors import RunError
from clkit.strategies.contract import Strategy
from clkit.strategies.options import StrategyOptions
from clkit.training.state import load_strategies, save_strategies


class Keeps(Strategy):
    """Keeps what it is given."""

    name: ClassVar[str] = "keeps"

    def __init__(self, kept: Mapping[str, Any]) -> None:
        super().__init__(StrategyOptions(name="keeps"))
        self.kept = dict(kept)

    def state_dict(self) -> dict[str, Any]:
        return self.kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = dict(state)


class Forgets(Keeps):
    """Does not find what it saved."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = state["typo"]


def test_a_strategy_that_does_not_take_its_state_is_named_and_nothing_is_to_be_removed(tmp_path: Path) -> None:
    save_strategies([Keeps({"n": 3})], tmp_path)
    with pytest.raises(RunError) as error:
        load_strategies([Forgets({})], tmp_path)
    said = f"strategies.keeps: does not know the state in {tmp_path} (KeyError: there is no key 'typo'); go on with"
    assert str(error.value).startswith(said)
    assert "--overwrite" not in str(error.value)


def test_tensors_that_share_memory_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    save_strategies([Keeps({"one": whole, "same": whole, "row": whole[1], "turned": whole.T, "n": 3})], tmp_path)
    again = Keeps({})
    load_strategies([again], tmp_path)
    assert again.kept.pop("n") == 3
    expected = {"one": whole, "same": whole, "row": whole[1], "turned": whole.T}
    assert again.kept.keys() == expected.keys()
    assert all(torch.equal(again.kept[name], tensor) for name, tensor in expected.items())
