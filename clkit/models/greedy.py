"""Greedy answers, whatever a checkpoint's own generation_config.json says.

That file may ask for beams, samples, banned or forced tokens, a shortest length or other outputs, and a test would
measure those. Inside `greedily` the model has a generation config of clkit's own; what is saved keeps the original's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedTokenizerBase

from clkit.models.family import Family
from clkit.results.answers import UNFINISHED


def end_ids(family: Family) -> list[int]:
    """The tokens that end an answer: the tokenizer's own, and further special ones that the checkpoint ends turns with.

    What the checkpoint calls an end and is an ordinary token, or has another use, is left out: a stale id would cut
    answers short.
    """
    model, tokenizer = family.model, family.tokenizer
    own = (model.generation_config or GenerationConfig()).eos_token_id
    further = {*(own if isinstance(own, list) else [own])} & {
        *tokenizer.all_special_ids,
        *tokenizer.added_tokens_decoder,
    }
    other_use = {tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.mask_token_id}
    turn = {family.chat.end_id} if family.chat is not None else set()
    return sorted({tokenizer.eos_token_id} | turn | (further - other_use - {None}))


def texts_written(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], ends: Sequence[int]) -> list[str]:
    """What the model wrote, up to the first token that ends an answer; behind what has none stands `UNFINISHED`.

    Args:
        rows: token ids, answers × tokens.
    """
    lengths = [next((at for at, token in enumerate(row) if token in ends), None) for row in rows]
    written = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [text + UNFINISHED if length is None else text for text, length in zip(texts, lengths, strict=True)]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a batch, and answers that ended before others."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    chosen: int = end if pad is None else pad
    return chosen


def greedy_config(family: Family, max_new_tokens: int) -> GenerationConfig:
    """How the model generates greedily, and with a cache, which the Trainer turns off in the model's config."""
    tokenizer = family.tokenizer
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids(family),
        pad_token_id=pad_id(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=family.decoder_start(),
        do_sample=False,
        num_beams=1,
        use_cache=True,
    )


@contextmanager
def greedily(family: Family, max_new_tokens: int) -> Iterator[list[int]]:
    """Inside, the model generates greedily.

    Yields:
        The tokens that end an answer.
    """
    config = greedy_config(family, max_new_tokens)
    holders = dict.fromkeys((family.model, family.base))
    kept = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield config.eos_token_id
    finally:
        for holder, own in zip(holders, kept, strict=True):
            holder.generation_config = own
