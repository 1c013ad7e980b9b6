"""How answers are compared: as texts that a normaliser made alike, or as numbers; or by token F1 and ROUGE-L.

The last two say how much of the right answer stands in a free one. They are written here and not taken from
`rouge-score`, which brings nltk and absl for these lines, has had no release since 2022 and drops every letter beyond a
to z; on ASCII texts the two give the same numbers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from clkit.errors import DataError
from clkit.wording import difference, plain

#: Punctuation that is dropped: all of ASCII, but for what makes another number of a number (1.5 and 15, -3 and 3).
_DROPPED = re.compile(
    r"(?!(?<=\d)[.,]\d)"  # a decimal point or separator between digits
    r"(?!(?<![\w])\.\d)"  # .5
    r"(?!(?<![^\W\d_])-\.?\d)"  # a minus, or a dash between digits; not the hyphen of a word (covid-19)
    rf"[{re.escape(string.punctuation)}]"
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNPUNCTUATED = str.maketrans("", "", string.punctuation)
#: A whole answer that is a number: 1,000.50, -3, .5, 2e3; a full stop may end it.
_NUMBER = re.compile(r"([+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,9})?)\.?", re.IGNORECASE)

#: Ends an answer that was cut off at its last allowed token, so that it cannot pass for a label that it begins with.
UNFINISHED = " …"

Normaliser = Literal["default", "none", "squad"]


@dataclass(frozen=True)
class Comparison:
    """How answers are compared.

    Attributes:
        normaliser: `default` lower-cases, drops punctuation but within numbers and squeezes white space; `squad` does
            as the SQuAD evaluation, which drops all punctuation and the articles too; `none` drops white space around.
        numbers: two answers that are numbers are equal if their values are, be they written 1,000 or 1000.0.
    """

    normaliser: Normaliser = "default"
    numbers: bool = False

    def text(self, answer: str) -> str:
        """The answer as a text that can be compared."""
        if self.normaliser == "squad":
            return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_UNPUNCTUATED)).split())
        return answer.strip() if self.normaliser == "none" else normalise(answer)

    @property
    def ignored(self) -> str:
        """In what answers may differ that count as the same, but for letters' case and white space."""
        texts = {"default": "punctuation", "squad": "punctuation or articles", "none": "nothing"}[self.normaliser]
        return f"{texts} or how a number is written" if self.numbers else texts

    def key(self, answer: str) -> str | Decimal:
        """What is the same for all answers that count as the same."""
        found = _NUMBER.fullmatch(answer.strip().replace("\N{MINUS SIGN}", "-")) if self.numbers else None
        return self.text(answer) if found is None else Decimal(found[1].replace(",", ""))

    def same(self, one: str, other: str) -> bool:
        """Whether two answers count as the same."""
        return self.key(one) == self.key(other)


AS_EVER = Comparison()


def normalise(text: str) -> str:
    """The text as exact match compares it: lower case, no punctuation but in numbers and of signs alone."""
    if re.fullmatch(r"\s*[+-]+\s*", text):
        return text.strip()
    return " ".join(_DROPPED.sub("", text.lower()).split())


def refuse_equal(labels: Iterable[str], task: str, by: Comparison = AS_EVER) -> None:
    """Check that every label says something to exact match, and no two the same, which would count either as right.

    Raises:
        DataError: one is blank, or two are the same.
    """
    known: dict[str | Decimal, str] = {}
    for label in labels:
        key = by.key(label)
        if key == "":
            raise DataError(
                f"task '{task}': exact match, which ignores {by.ignored}, leaves nothing of the label {label!r}; name "
                "it in words, in the data or by the source's label_names, or list it in source.missing where it "
                "stands for no label"
            )
        same = known.setdefault(plain(key) if isinstance(key, str) else key, label)
        if same != label:
            raise DataError(
                f"task '{task}': the labels '{same}' and '{label}' count as the same, for they differ only in "
                f"{difference(same, label) or by.ignored}; write them alike, or name them in words"
            )


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
