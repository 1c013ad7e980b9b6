"""Which learning rate a method is tested at: chosen by runs that are tested on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from clkit.results.kinds import LOWER_IS_BETTER
from clkit.results.matrix import AccuracyMatrix
from clkit.suites.planning import PlannedSuite
from clkit.suites.state import state_of


class Tried(NamedTuple):
    """What a learning rate came to on the validation split, on average over its seeds.

    Attributes:
        metric: what tasks are scored by.
    """

    average: float
    learned: float
    metric: str

    @property
    def merit(self) -> float:
        """The higher the better."""
        return -self.average if self.metric in LOWER_IS_BETTER else self.average


class Choice(NamedTuple):
    """The rate of a method, and what all of its rates came to; nothing where it has only one."""

    rate: float
    tried: Mapping[float, Tried]

    @property
    def beyond(self) -> str:
        """Which rates may be better that were not tried, `lower` or `higher`; empty where the best lies between two."""
        ends = {min(self.tried): "lower", max(self.tried): "higher"} if len(self.tried) > 1 else {}
        return ends.get(self.rate, "")


def choose_rates(planned: PlannedSuite, folder: Path) -> dict[str, Choice]:
    """The rate of each method whose validation runs, if it needs any, are all finished."""
    only = {method: rates[0] for method, rates in planned.rates_to_try().items() if len(rates) == 1}
    best = {method: Choice(rate, {}) for method, rate in only.items() if rate is not None}
    found: dict[str, dict[float, list[AccuracyMatrix | None]]] = {}
    for run in planned.validation_runs():
        if run.rate is not None:
            state = state_of(folder / run.place)
            found.setdefault(run.method, {}).setdefault(run.rate, []).append(state.matrix)
    tried = {
        method: {rate: _tried([one for one in matrices if one is not None]) for rate, matrices in rates.items()}
        for method, rates in found.items()
        if all(None not in matrices for matrices in rates.values())
    }
    best |= {method: Choice(_best(rates), rates) for method, rates in tried.items()}
    section = planned.suite.rates
    if section is None or section.like is None:
        return best
    if section.like not in tried:
        return {}
    goal = best[section.like].tried[best[section.like].rate].learned
    return {
        method: Choice(_nearest(choice.tried, goal), choice.tried) if len(choice.tried) > 1 else choice
        for method, choice in best.items()
    }


def _tried(matrices: list[AccuracyMatrix]) -> Tried:
    def mean(metric: str) -> float:
        values = [one.metrics()[metric].value for one in matrices]
        numbers = [value for value in values if value is not None]
        return fmean(numbers) if numbers else worst

    worst = float("-inf") if matrices[0].higher_is_better else float("inf")
    return Tried(mean("average_accuracy"), mean("learning_accuracy"), matrices[0].metric)


def _best(tried: Mapping[float, Tried]) -> float:
    """The rate with the best average; of equal ones the lowest."""
    return max(sorted(tried), key=lambda rate: tried[rate].merit)


def _nearest(tried: Mapping[float, Tried], goal: float) -> float:
    """The rate at which most nearly as much is learned; of equal ones the lowest."""
    return min(sorted(tried), key=lambda rate: abs(tried[rate].learned - goal))
