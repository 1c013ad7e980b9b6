"""Several short examples in one row of a batch: positions start anew with each, and none sees another.

`transformers` finds packed examples by their positions, where it is given neither a mask of the padding nor a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from clkit.draws import seeded
from clkit.errors import UsageError, first_line
from clkit.models.family import IGNORED, TOKENS, Batch, Collator, Family
from clkit.models.layers import evaluation_mode
from clkit.models.precision import is_rounding

KEY = "training.packing"
#: Kinds of layers in which a token sees others by the mask and by nothing else.
_BY_THE_MASK = {"full_attention", "sliding_attention"}


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Which examples share a row no longer than the longest of them: first-fit decreasing, at most 11/9 of the fewest
    rows that there could be and one (Johnson 1973).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        at = next((row for row, left in enumerate(room) if left >= lengths[index]), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[at].append(index)
        room[at] -= lengths[index]
    return rows


def packing(collate: Collator, *, restart: bool = True) -> Collator:
    """A decoder's collator whose batches hold the same examples in fewer rows.

    Args:
        restart: whether positions start anew with each example, which is what keeps them apart.
    """

    def collate_packed(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(example["input_ids"]) for example in examples]
        rows, places = [], []
        for row in rows_of(lengths):
            ids = [token for index in row for token in examples[index]["input_ids"]]
            # Nothing predicts an example's first token.
            labels = [label for index in row for label in [IGNORED, *examples[index]["labels"][1:]]]
            rows.append({"input_ids": ids, "labels": labels})
            own = [place for index in row for place in range(lengths[index])] if restart else [*range(len(ids))]
            places.append([*own, *[0] * (max(lengths) - len(ids))])  # each token of padding is by itself
        batch = collate(rows)
        tokens = batch.pop("attention_mask")
        return {**batch, TOKENS: tokens, "position_ids": torch.tensor(places)}

    return collate_packed


def forward_inputs(batch: Batch) -> dict[str, Any]:
    """What the model is given of a batch."""
    inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name not in ("labels", TOKENS)}
    return {**inputs, "use_cache": False} if TOKENS in batch else inputs


def refuse_unpackable(family: Family, *, try_it: bool) -> None:
    """Make sure that the model reads packed examples as it reads each by itself.

    Args:
        try_it: with two short ones; else only what the configuration says is known.

    Raises:
        UsageError: it does not, or nobody can know.
    """
    kind = f"{family.name} models such as this one ({family.base.config.model_type})"
    if family.name != "decoder":
        raise UsageError(f"{KEY}: {kind} read one example a row; set it to false")
    kinds = {*(getattr(family.base.config.get_text_config(), "layer_types", None) or ())}
    if others := sorted(kinds - _BY_THE_MASK):
        raise UsageError(f"{KEY}: {kind} have layers that look past their mask ({others[0]}); set it to false")
    if try_it:
        try:
            packed, alone, mixed = _read(family)
        except Exception as error:  # no narrower: a model's own code can raise anything
            raise UsageError(
                f"{KEY}: {kind} cannot read packed examples ({first_line(error)}); set it to false"
            ) from error
        if not is_rounding(packed, alone, mixed, family.base, fine=1e-3, coarse=0.1):
            raise UsageError(
                f"{KEY}: {kind} mix examples that share a row, whatever their positions; set it to false, or choose "
                "another model.attention"
            )


def _read(family: Family) -> list[torch.Tensor]:
    """The logits of packed examples, of each by itself, and of packed ones of which each sees those before it."""
    draw, words = seeded("packing"), family.base.get_input_embeddings().num_embeddings
    # The longest first, as their logits stand in packed rows: two share one, and one has a row of its own.
    ids = [[int(draw.random() * words) for _ in range(length)] for length in (24, 9, 7)]
    examples = [{"input_ids": own, "labels": own} for own in ids]
    alone = family.collator()
    found = []
    with evaluation_mode(family.model), torch.no_grad():
        for collate in (packing(alone), alone, packing(alone, restart=False)):
            batch = {name: tensor.to(family.model.device) for name, tensor in collate(examples).items()}
            outputs = family.model(**forward_inputs(batch))
            found.append(family.logits(outputs, batch["labels"])[batch["labels"] != IGNORED])
    return found
