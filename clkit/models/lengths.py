"""What is too long of an example: named, shortened or left out, as the recipe's `prompt.on_too_long` says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clkit.models.family import IGNORED, Family, Generating
from clkit.tasks.prompts import Limit, Prompt, fit
from clkit.tasks.sections import PromptSection

#: Makes the prompts of the rows with these indices anew, where these turns were said before.
Rebuild = Callable[[Sequence[int], Sequence[str]], Sequence[Prompt]]


class Examples(NamedTuple):
    """Prompts, within the chat template where there is one, and the answers as the model writes them."""

    prompts: Sequence[Prompt]
    answers: Sequence[str]


def sizes(
    family: Family, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """Tokens of each prompt, and of its answer with the token that ends it."""
    columns = family.encode(prompts, answers, tasks)
    joined = isinstance(family, Generating) and not family.model.config.is_encoder_decoder
    learned = [sum(label != IGNORED for label in labels) for labels in columns["labels"]]
    return [(len(ids) - joined * own, own) for ids, own in zip(columns["input_ids"], learned, strict=True)]


@dataclass(frozen=True)
class Lengths:
    """How long examples may be, in tokens: prompts always, answers and whole examples only where they are learned."""

    family: Family
    section: PromptSection
    learned: bool

    @property
    def of_prompts(self) -> Limit:
        return Limit("prompt.max_tokens", self.section.max_tokens, "prompt")

    @property
    def of_answers(self) -> Limit | None:
        most = self.section.max_answer_tokens
        return Limit("prompt.max_answer_tokens", most, "answer") if self.learned and most else None

    @property
    def of_wholes(self) -> Limit | None:
        most = self.section.max_conversation_tokens
        return Limit("prompt.max_conversation_tokens", most, "conversation") if self.learned and most else None

    def too_long(self, examples: Examples) -> Iterator[tuple[int, Limit, int]]:
        """The index of each example that is too long, the first limit that it breaks, and how many tokens it takes."""
        texts = [str(prompt) for prompt in examples.prompts]
        limits = [limit for limit in (self.of_prompts, self.of_answers, self.of_wholes) if limit is not None]
        found = {"prompt": self._prompt_sizes(texts)}
        if len(limits) > 1:
            pairs = self._sizes(texts, examples.answers)
            found |= {"answer": [answer for _, answer in pairs], "conversation": [sum(pair) for pair in pairs]}
        for index in range(len(texts)):
            broken = next((limit for limit in limits if found[limit.what][index] > limit.tokens), None)
            if broken is not None:
                yield index, broken, found[broken.what][index]

    def shortened(self, examples: Examples, turns: Sequence[str], rebuild: Rebuild) -> Examples:
        """The examples made to fit: answers lose their end, conversations their oldest turns, prompts their sentence's.

        Args:
            turns: what was said before each prompt, as a JSON list.

        Raises:
            DataError: a prompt is too long even without all that.
        """
        answers = self._cut_answers(examples)
        prompts = self._without_oldest_turns(Examples(examples.prompts, answers), list(turns), rebuild)
        prompts = fit(
            prompts,
            self.family.tokenizer,
            lambda _, texts: self.of_prompts.excess(self._prompt_sizes(texts)),
            self.of_prompts,
        )
        if whole := self.of_wholes:

            def excess(indices: Sequence[int], texts: Sequence[str]) -> list[int]:
                pairs = self._sizes(texts, [answers[index] for index in indices])
                return whole.excess([sum(pair) for pair in pairs])

            prompts = fit(prompts, self.family.tokenizer, excess, whole)
        return Examples(prompts, answers)

    def _cut_answers(self, examples: Examples) -> Sequence[str]:
        limit = self.of_answers
        if limit is None:
            return examples.answers
        prompts = [str(prompt) for prompt in examples.prompts]

        def excess(indices: Sequence[int], texts: Sequence[str]) -> list[int]:
            return limit.excess([size for _, size in self._sizes([prompts[index] for index in indices], texts)])

        pairs = zip(*examples, strict=True)
        whole = [Prompt("", answer, "", place=prompt.place) for prompt, answer in pairs]
        return [str(answer) for answer in fit(whole, self.family.tokenizer, excess, limit)]

    def _without_oldest_turns(self, examples: Examples, turns: list[str], rebuild: Rebuild) -> list[Prompt]:
        prompts = list(examples.prompts)
        left = [index for index, said in enumerate(turns) if _without_oldest(said) != said]
        while left:
            some = Examples([prompts[index] for index in left], [examples.answers[index] for index in left])
            left = [left[at] for at, limit, _ in self.too_long(some) if limit.what != "answer"]
            for index in left:
                turns[index] = _without_oldest(turns[index])
            for index, prompt in zip(left, rebuild(left, [turns[index] for index in left]), strict=True):
                prompts[index] = prompt
            left = [index for index in left if _without_oldest(turns[index]) != turns[index]]
        return prompts

    def _prompt_sizes(self, prompts: Sequence[str]) -> list[int]:
        if not prompts:
            return []
        # verbose=False: the warning that a sequence is longer than the model takes is what is being dealt with here.
        found = self.family.tokenizer(list(prompts), add_special_tokens=self.family.chat is None, verbose=False)
        return list(map(len, found["input_ids"]))

    def _sizes(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[int, int]]:
        return sizes(self.family, prompts, answers) if prompts else []


def _without_oldest(turns: str) -> str:
    """The turns without the oldest, and without those behind it up to a user's; what the system says stays."""
    said = json.loads(turns)
    others = [turn for turn in said if turn["role"] != "system"]
    if not others:
        return turns
    others = others[1:]
    while others and others[0]["role"] != "user":
        del others[0]
    return json.dumps([*(turn for turn in said if turn["role"] == "system"), *others], ensure_ascii=False)
