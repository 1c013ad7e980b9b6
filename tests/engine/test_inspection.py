"""Overlap and shift on distributions with known answers, and measured ones against MIGU's own sums."""

from __future__ import annotations

import pytest
import torch

from clkit.engine.inspection import Magnitudes


@pytest.fixture
def known() -> Magnitudes:
    """Two tasks over four rows: the first task's loud rows are 0 and 1, the second's 1 and 3."""
    n = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.1, 0.4]])
    return Magnitudes(["a", "b"], {"l": n}, top_share=0.5)


def test_known_overlap_mass_and_shift(known: Magnitudes) -> None:
    assert known.top_rows("l").tolist() == [[True, True, False, False], [False, True, False, True]]
    assert known.overlap("l").tolist() == [[1.0, 0.5], [0.5, 1.0]]
    torch.testing.assert_close(known.top_mass("l"), torch.tensor([0.7, 0.8]))
    torch.testing.assert_close(known.shift("l"), torch.tensor([[0.0, 0.4], [0.4, 0.0]]))
    summary = known.summary()["layers"]["l"]
    assert summary["overlap_between_tasks"] == 0.5
    assert summary["shift_between_tasks"] == pytest.approx(0.4)


def test_overlap_is_averaged_over_layers(known: Magnitudes) -> None:
    both = Magnitudes(["a", "b"], {"l": known.layers["l"], "same": known.layers["l"][[0, 0]]}, top_share=0.5)
    assert both.mean_overlap().tolist() == [[1.0, 0.75], [0.75, 1.0]]


def test_one_task_has_nothing_to_share() -> None:
    alone = Magnitudes(["a"], {"l": torch.tensor([[0.5, 0.5]])}, top_share=0.5)
    assert alone.summary()["layers"]["l"]["overlap_between_tasks"] is None
