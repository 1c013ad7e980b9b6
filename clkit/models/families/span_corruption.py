"""Pre-training of T5 and its relatives: spans of a text are masked, and the decoder spells them out.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 21 (2020),
section 3.1.4 (arXiv 1910.10683).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count, pairwise, takewhile
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from clkit.draws import drawn_from
from clkit.errors import ModelError
from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.family import Collator, Family
from clkit.models.objective import Pretraining

#: The paper's: share of the tokens that are masked, and mean length of a span in tokens.
MASKED_SHARE, SPAN_LENGTH = 0.15, 3.0
#: How tokenizers spell sentinel n: T5 and UL2, and mT5, whose sentinels are pieces of its vocabulary.
SPELLINGS = ("<extra_id_{}>", "▁<extra_id_{}>")


class Seq2SeqPretraining(Seq2Seq):
    """Span corruption: the encoder reads a text whose spans are sentinels, the decoder writes what they stand for.

    ::

        Thank you for inviting me to your party last week    the text
        Thank you <X> me to your party <Y> week              the encoder's input, with the end of sequence behind it
        <X> for inviting <Y> last <Z>                        the labels, likewise

    Which spans are masked follows from the batch (`clkit.draws`). Every epoch has others, for its batches hold
    other examples together.
    """

    objective_kind: ClassVar[str] = "pretraining"
    answer = Family.answer  # which says that there are none
    objective: Pretraining

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        return {"input_ids": self.tokenizer(list(answers), add_special_tokens=False, truncation=False)["input_ids"]}

    def collator(self) -> Collator:
        pad, corrupted = super().collator(), self._corruption()
        return lambda examples: pad(corrupted([example["input_ids"] for example in examples]))

    def encode_texts(self, texts: Sequence[str]) -> dict[str, list[Any]]:
        """Each text's spans are drawn by itself, so that they are the same in every epoch."""
        corrupted = self._corruption()
        rows = [row for ids in self.encode([], texts)["input_ids"] for row in corrupted([ids])]
        return {name: [row[name] for row in rows] for name in ("input_ids", "labels")}

    def _corruption(self) -> Callable[[list[list[int]]], list[dict[str, Any]]]:
        """What makes input and labels of the tokens of a batch of texts."""
        sentinels = self._sentinels()
        share, span_length = self._share_and_length()
        end = [self.tokenizer.eos_token_id]

        def corrupted(texts: list[list[int]]) -> list[dict[str, Any]]:
            draw = drawn_from(texts)
            pairs = (corrupt(ids, sentinels, share, span_length, draw) for ids in texts)
            return [{"input_ids": source + end, "labels": target + end} for source, target in pairs]

        return corrupted

    def _share_and_length(self) -> tuple[float, float]:
        return self.objective.masked_share or MASKED_SHARE, self.objective.span_length or SPAN_LENGTH

    def _sentinels(self) -> list[int]:
        """The ids of the sentinels.

        Raises:
            ModelError: the tokenizer has fewer than a block needs.
        """
        found, block_tokens = sentinel_ids(self.tokenizer), self.objective.block_tokens
        _, spans = span_counts(block_tokens, *self._share_and_length())
        if not found:
            raise ModelError(
                "the tokenizer has no sentinels (<extra_id_0>, ...), which span corruption needs; use a T5"
            )
        if len(found) <= spans:
            raise ModelError(
                f"the tokenizer has {len(found)} sentinels (<extra_id_0>, ...), and a block of {block_tokens} "
                f"tokens needs {spans + 1}; lower objective.block_tokens or raise objective.span_length"
            )
        return found


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, ... as far as the tokenizer has them."""

    def known(token: str) -> bool:
        return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)

    spelling = next((one for one in SPELLINGS if known(one.format(0))), SPELLINGS[0])
    sentinels = takewhile(known, map(spelling.format, count()))
    return [tokenizer.convert_tokens_to_ids(sentinel) for sentinel in sentinels]


def span_counts(tokens: int, masked_share: float, span_length: float) -> tuple[int, int]:
    """How many of so many tokens are masked, and in how many spans: at least one, and never all, unless there is one.

    The number of masked tokens is the share of all, and that of spans the masked ones by their mean length, both
    rounded. As many tokens as there are spans stay unmasked at least, so that no two spans touch.
    """
    if tokens < 2:
        return tokens, tokens
    masked = min(max(round(tokens * masked_share), 1), tokens - 1)
    return masked, min(max(round(masked / span_length), 1), tokens - masked)


def corrupt(
    ids: Sequence[int], sentinels: Sequence[int], masked_share: float, span_length: float, draw: random.Random
) -> tuple[list[int], list[int]]:
    """The encoder's input and the labels that make the text of them, both without the end of sequence.

    Masked and unmasked tokens are each parted at random, all ways equally likely, into as many runs as there are
    spans; the runs alternate, an unmasked one first.

    Args:
        ids: the text's tokens, without special ones.
    """
    masked, spans = span_counts(len(ids), masked_share, span_length)
    source: list[int] = []
    target: list[int] = []
    place = 0
    runs = zip(_parts(len(ids) - masked, spans, draw), _parts(masked, spans, draw), strict=True)
    for sentinel, (kept, hidden) in zip(sentinels, runs, strict=False):
        source += [*ids[place : place + kept], sentinel]
        place += kept
        target += [sentinel, *ids[place : place + hidden]]
        place += hidden
    return source, [*target, sentinels[spans]]


def _parts(total: int, parts: int, draw: random.Random) -> list[int]:
    """``total`` as a sum of so many numbers from 1, each such sum equally likely; zeros where it is too small."""
    if total < parts or not parts:
        return [0] * parts
    places = sorted(range(1, total), key=lambda _: draw.random())
    bounds = [0, *sorted(places[: parts - 1]), total]
    return [end - start for start, end in pairwise(bounds)]
