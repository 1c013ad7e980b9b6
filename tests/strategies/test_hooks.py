"""A strategy's code is called in one way, which says whose an error is, from Python too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from clkit.engine.sequence import train
from clkit.errors import ClkitError, StrategyError
from clkit.strategies.builtin.migu import MIGU
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.hooks import call, make
from clkit.strategies.migu_options import MIGUOptions
from clkit.strategies.options import StrategyOptions
from tests.toy import toy_recipe


class Breaks(Strategy):
    """Breaks in a method that its hook calls."""

    name: ClassVar[str] = "breaks"

    def before_step(self, context: Context) -> None:
        self.divide()

    def after_step(self, context: Context) -> None:
        raise StrategyError("said on purpose")

    def divide(self) -> None:
        raise ZeroDivisionError("division by zero")


class NeverMade(Strategy):
    """Breaks when it is made."""

    name: ClassVar[str] = "never"

    def __init__(self, options: StrategyOptions) -> None:
        raise ValueError("first line\nsecond line")


HERE = Path(__file__)
LINE = next(number for number, line in enumerate(HERE.read_text("utf-8").splitlines(), 1) if "self.divide()" in line)


def test_from_python_an_error_names_strategy_hook_and_line(tmp_path: Path, toy_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, toy_t5, strategies=[{"name": "tests.strategies.test_hooks:Breaks"}])
    with pytest.raises(StrategyError) as caught:
        train(recipe, tmp_path / "run")
    said = f"strategy Breaks, before_step ({HERE}:{LINE}): ZeroDivisionError: division by zero (in code that is not"
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_raised_on_purpose_or_expected_passes_unchanged() -> None:
    breaks: Any = Breaks(StrategyOptions(name="breaks"))
    with pytest.raises(StrategyError, match=r"^said on purpose$"):
        call(breaks, "after_step", None)
    with pytest.raises(ZeroDivisionError):
        call(breaks, "divide", passing=(ZeroDivisionError,))


def test_a_strategy_that_cannot_be_made_or_does_not_take_what_it_is_given() -> None:
    with pytest.raises(ClkitError, match=r"^strategy NeverMade, __init__ \(.*\): ValueError: first line \(in code"):
        make(NeverMade, StrategyOptions(name="never"))
    with pytest.raises(
        StrategyError, match=r"^strategy Breaks, after_step: TypeError: .*missing 1 required positional"
    ):
        call(Breaks(StrategyOptions(name="breaks")), "after_step")


def test_an_error_of_a_built_in_strategy_asks_for_a_report() -> None:
    broken = MIGU(MIGUOptions(name="migu"))
    broken._rows = object()  # type: ignore[assignment]
    with pytest.raises(StrategyError, match=r"^strategy MIGU, before_step \(.*migu.py:\d+\): .*please report it"):
        call(broken, "before_step", None)
