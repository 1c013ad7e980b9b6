"""Makes the prompt of an example, and shortens it where it is too long, at no cost to its instruction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from clkit.errors import DataError
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.sections import PromptSection
from clkit.tasks.task import Task

_BATCH = 1024


@dataclass(frozen=True)
class Prompt:
    """A prompt in three parts. Only ``text``, the example's sentence, may be shortened.

    Attributes:
        turns: what was said before, as a JSON list of {role, content}, as far as it does not stand in ``before``.
        place: of the row in the data, for errors.
        learned: where in ``before`` turns stand that are learned too, as first and last letter but one.
        learned_end: how many letters at the prompt's end are learned too.
    """

    before: str
    text: str
    after: str
    turns: str = NO_TURNS
    place: str = ""
    learned: tuple[tuple[int, int], ...] = ()
    learned_end: int = 0

    def __str__(self) -> str:
        return self.before + self.text + self.after

    def all_learned(self) -> list[tuple[int, int]]:
        """Where in the whole prompt something is learned."""
        size = len(str(self))
        return [*self.learned, *([(size - self.learned_end, size)] if self.learned_end else [])]

    def stripped(self) -> Prompt:
        """Without white space around the whole."""
        before, after = self.before.lstrip(), self.after.rstrip()
        text = self.text if before else self.text.lstrip()
        return Prompt(before, text if after else text.rstrip(), after, self.turns, self.place)


def build_prompt(task: Task, text: str, section: PromptSection, turns: str = NO_TURNS, place: str = "") -> Prompt:
    """The prompt of an example: letter by letter in the papers' format, with the instruction, options, sentence and
    `Answer:` each on a line, or with `prompt.style: text` the sentence alone.

    Args:
        turns: what was said before, as a JSON list of {role, content}. Without a chat template, which has its own way
            to write turns down, each stands on lines of its own before the sentence: `role: content`.
    """
    lines = []
    if section.style == "paper":
        lines += [f"Task:{task.group}", f"Dataset:{task.name}"] if section.task_name else []
        if task.instruction:
            lines.append(task.instruction)
        if task.labels and task.options:
            lines.append(f"Option: {', '.join(task.labels)} ")  # the published code writes this space
    if not section.chat_template:
        lines += [f"{turn['role']}: {turn['content'].strip()}" for turn in json.loads(turns)]
        turns = NO_TURNS
    before = "".join(f"{line}\n" for line in lines)
    if section.style == "paper":
        return Prompt(before, text, "\nAnswer:", turns, place)
    return Prompt(before, text if section.chat_template else text.strip(), "", turns, place)


class Limit(NamedTuple):
    """How many tokens a part of an example may take, and the recipe's key that says so."""

    key: str
    tokens: int
    what: str

    def excess(self, sizes: Sequence[int]) -> list[int]:
        """By how many tokens each of these sizes is too large."""
        return [size - self.tokens for size in sizes]


#: By how many tokens each of these texts is too long, which are made of the prompts with these indices.
Excess = Callable[[Sequence[int], Sequence[str]], Sequence[int]]


def fit(prompts: Sequence[Prompt], tokenizer: Any, excess_of: Excess, limit: Limit) -> list[Prompt]:
    """The prompts, the sentence of each cut short where the whole is too long.

    Raises:
        DataError: one is too long even without its sentence.
    """
    fitted: list[Prompt] = []
    for start in range(0, len(prompts), _BATCH):
        fitted += _fit_batch(prompts[start : start + _BATCH], start, tokenizer, excess_of, limit)
    return fitted


def _fit_batch(prompts: Sequence[Prompt], start: int, tokenizer: Any, excess_of: Excess, limit: Limit) -> list[Prompt]:
    """Drop as many tokens off a sentence's end as there are too many, and again until the result really fits.

    Once is nearly always enough, but the pieces at the cut may become other tokens than they were inside the whole.
    """

    def excess_now(indices: Sequence[int]) -> Sequence[int]:
        return excess_of([start + index for index in indices], [str(fitted[index]) for index in indices])

    fitted = list(prompts)
    excess = dict(enumerate(excess_now(range(len(prompts)))))
    long = [index for index in excess if excess[index] > 0]
    cuts = dict(zip(long, _cuts([prompts[index] for index in long], tokenizer), strict=True))
    kept = {index: len(cuts[index]) for index in long}
    while long:
        for index in long:
            prompt = prompts[index]
            if kept[index] == 0:
                at = f"{prompt.place}: " if prompt.place else ""
                without = " even without its sentence" if limit.what != "answer" else ""
                raise DataError(
                    f"{at}{limit.key}: {limit.tokens} tokens do not hold the {limit.what} "
                    f"{str(fitted[index])[:60]!r}...{without}; set it to {limit.tokens + excess[index]} or more"
                )
            kept[index] = max(kept[index] - excess[index], 0)
            cut = cuts[index][kept[index]] if kept[index] else 0
            fitted[index] = replace(prompt, text=prompt.text[:cut].rstrip())
        excess.update(zip(long, excess_now(long), strict=True))
        long = [index for index in long if excess[index] > 0]
    return fitted


def _cuts(prompts: list[Prompt], tokenizer: Any) -> list[list[int]]:
    """Where each sentence may be cut: where its tokens start, one place for each token.

    Where a tokenizer cannot tell (ByT5), one place for each byte: no token is smaller, so none too many are dropped.
    """
    if not prompts:
        return []
    if not tokenizer.is_fast:
        return [[at for at, letter in enumerate(prompt.text) for _ in letter.encode()] for prompt in prompts]
    encoded = tokenizer([str(prompt) for prompt in prompts], return_offsets_mapping=True, verbose=False)
    return [_starts(prompt, spans) for prompt, spans in zip(prompts, encoded["offset_mapping"], strict=True)]


def _starts(prompt: Prompt, spans: Sequence[tuple[int, int]]) -> list[int]:
    start, end = len(prompt.before), len(prompt.before) + len(prompt.text)
    # Special tokens have empty spans; the first token may begin in the line break before the sentence.
    return [max(first - start, 0) for first, last in spans if start < last and first < min(last, end)]
