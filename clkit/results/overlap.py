"""How much of the right answer stands in a free one: token F1 and ROUGE-L.

Written here and not taken from `rouge-score`, which brings nltk and absl for these lines, has had no release since 2022
and drops every letter beyond a to z; on ASCII texts the two give the same numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words that ROUGE compares: letters and digits of any script, in lower case, without stemming."""
    return _WORD.findall(text.lower())


def token_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of the tokens in common, whatever their order, as SQuAD scores it (Rajpurkar et al., 2016)."""
    return _f1(sum((Counter(prediction) & Counter(gold)).values()), prediction, gold)


def rouge_l(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of the longest common subsequence (Lin, 2004); nothing in common is 0, as is nothing at all."""
    lengths = [0] * (len(gold) + 1)  # of the subsequence so far, with each beginning of the right answer
    for word in prediction:
        before = 0  # of the prediction without this word, and the beginning without its last one
        for place, due in enumerate(gold, start=1):
            longest = before + 1 if word == due else max(lengths[place], lengths[place - 1])
            before, lengths[place] = lengths[place], longest
    return _f1(lengths[-1], prediction, gold) if gold else 0.0


def _f1(common: int, prediction: Sequence[str], gold: Sequence[str]) -> float:
    if not prediction or not gold:
        return float(not prediction and not gold)
    return 2 * common / (len(prediction) + len(gold))
