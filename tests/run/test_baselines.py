"""Which differences between a run and its reference make the comparison unfair."""

from __future__ import annotations

import pytest

from clkit.run.baselines import COMPARED


@pytest.mark.parametrize(
    ("key", "unfair"),
    [
        ("objective", True),
        ("objective.heads", True),
        ("tasks.a.source.train", True),
        ("tasks.v1.0.labels", True),
        ("benchmark", True),
        ("benchmark.folder", True),
        ("data.test_per_task", True),
        ("evaluation.max_new_tokens", True),
        ("benchmark.order", False),
        ("tasks", False),  # another order
        ("tasks.a", False),  # one that the other run does not have
        ("training.epochs", False),
        ("protocol", False),
        ("database", False),
    ],
)
def test_unfair_differences(key: str, unfair: bool) -> None:
    assert bool(COMPARED.match(key)) is unfair
