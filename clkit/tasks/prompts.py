"""Makes the prompt of an example, and shortens it where it is too long, at no cost to its instruction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """

    before: str
    text: str
    after: str
    turns: str = NO_TURNS
    place: str = ""

    def __str__(self) -> str:
        return self.before + self.text + self.after

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


def fit_all(prompts: Sequence[Prompt], tokenizer: Any, max_tokens: int, *, framed: bool = False) -> list[str]:
    """The prompts, the sentence of each cut short where the whole is longer than ``max_tokens``, special ones included.

    Args:
        framed: by a chat template, so that the tokenizer adds no special tokens.

    Raises:
        DataError: one is too long even without its sentence.
    """
    fitted: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        fitted += _fit_batch(prompts[start : start + _BATCH], tokenizer, max_tokens, framed)
    return fitted


def _fit_batch(prompts: Sequence[Prompt], tokenizer: Any, max_tokens: int, framed: bool) -> list[str]:
    """Drop as many tokens off a sentence's end as there are too many, and again until the result really fits.

    Once is nearly always enough, but the pieces at the cut may become other tokens than they were inside the whole.
    """

    def excess_of(texts: list[str]) -> list[int]:
        # verbose=False: the warning that a sequence is longer than the model takes is what is being dealt with here.
        found = tokenizer(texts, add_special_tokens=not framed, verbose=False)["input_ids"]
        return [len(ids) - max_tokens for ids in found]

    fitted = [str(prompt) for prompt in prompts]
    excess = dict(enumerate(excess_of(fitted)))
    long = [index for index in excess if excess[index] > 0]
    cuts = dict(zip(long, _cuts([prompts[index] for index in long], tokenizer), strict=True))
    kept = {index: len(cuts[index]) for index in long}
    while long:
        for index in long:
            prompt = prompts[index]
            if kept[index] == 0:
                at = f"{prompt.place}: " if prompt.place else ""
                raise DataError(
                    f"{at}prompt.max_tokens: {max_tokens} tokens do not hold the prompt {fitted[index][:60]!r}... "
                    f"even without its sentence; set it to {max_tokens + excess[index]} or more"
                )
            kept[index] = max(kept[index] - excess[index], 0)
            cut = cuts[index][kept[index]] if kept[index] else 0
            fitted[index] = str(Prompt(prompt.before, prompt.text[:cut].rstrip(), prompt.after))
        excess.update(zip(long, excess_of([fitted[index] for index in long]), strict=True))
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
