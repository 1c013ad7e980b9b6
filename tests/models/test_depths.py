"""Depths by layers' names, and the lists of them that a person writes."""

from __future__ import annotations

import pytest

from clkit.errors import UsageError
from clkit.models.depths import at_depths, depth_of

T5 = [
    f"{stack}.block.{block}.layer.1.wi" for stack, blocks in (("encoder", 4), ("decoder", 2)) for block in range(blocks)
]


def test_the_first_number_is_the_block() -> None:
    assert depth_of("encoder.block.11.layer.0.SelfAttention.q") == 11
    assert depth_of("model.layers.3.mlp.experts.7.up_proj") == 3
    assert depth_of("h.0.attn.c_attn") == 0
    assert depth_of("7") == 7
    assert depth_of("lm_head") is depth_of("layer2norm.w1") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0, 4]),
        ("1-2", [1, 2, 5]),
        ("last", [3, 5]),
        ("2-last", [2, 3]),  # the decoder's last is 1
        (" 3 , 0", [0, 3, 4]),
    ],
)
def test_chosen_depths(text: str, expected: list[int]) -> None:
    assert at_depths([*T5, "lm_head"], text) == [T5[place] for place in expected]


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "last-x"])
def test_no_list_of_blocks(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no list of blocks; write numbers from 0 and ranges, as in 0,2-4,last"):
        at_depths(T5, text)


def test_where_nothing_lies() -> None:
    with pytest.raises(UsageError, match=r"--depth 9: no layer of --layers lies there \(blocks 0 to 3\)"):
        at_depths(T5, "9")
    with pytest.raises(UsageError, match=r"\(none of them in a block with a number\)"):
        at_depths(["lm_head"], "0")
