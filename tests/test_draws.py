"""Draws that are seeded by names and numbers stay the same from release to release."""

from __future__ import annotations

import random

import torch

from clkit.draws import drawn_from, seeded, torch_seeded


def test_a_purpose_is_its_parts_with_strokes_between() -> None:
    assert seeded("replay", 42, 1, "keep").random() == random.Random("replay/42/1/keep").random()
    assert seeded("replay", 42, 1, "keep").random() != seeded("replay", 42, 2, "keep").random()


def test_torch_draws_from_the_same_seed() -> None:
    expected = torch.Generator().manual_seed(random.Random("migu/42/1/7").getrandbits(63))
    assert torch.equal(torch.rand(5, generator=torch_seeded("migu", 42, 1, 7)), torch.rand(5, generator=expected))


def test_the_same_rows_draw_the_same() -> None:
    assert drawn_from([[1, 2], [3]]).random() == drawn_from([(1, 2), [3]]).random()
    assert drawn_from([[1, 2], [3]]).random() != drawn_from([[1], [2, 3]]).random()
