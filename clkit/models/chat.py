"""Conversations in a tokenizer's chat template: what is trained is what it makes of the whole conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clkit.errors import DataError, ModelError, first_line
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import Prompt

KEY = "prompt.chat_template"
NO_CHAT_TEMPLATE = (
    f"{KEY}: the model's tokenizer has no chat template; set it to false, or use a model that is tuned for "
    "conversations"
)
#: Stand for a user's turn and its answer while the template is rendered; no template holds or changes them.
_ASKED, _ANSWERED = "clkit0asked0clkit", "clkit0answered0clkit"
#: Beginnings of answers: the tokens that stand before each of them are the prompt's.
_BEGINNINGS = ("a", "0")
#: Letters of a difference that are shown.
_SHOWN = 40


class ChatTemplate:
    """What a tokenizer's chat template puts before a user's turn, between it and its answer, and behind the answer.

    A prompt ends where the answer stands in the whole conversation. That is not always the template's own generation
    prompt, which may open a `<think>` that no conversation with a plain answer has.

    Attributes:
        end: what the template writes behind an answer.
        end_id: the special token in it, which ends an answer that the model writes; where it has none, its first
            token, such as that of a line's end.
        remark: how the generation prompt differs; None where it does not.

    Raises:
        ModelError: the tokenizer has no chat template, or one that does not hold a user's turn and its answer, or
            does not end the answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(NO_CHAT_TEMPLATE)
        self._tokenizer = tokenizer
        self._around: dict[str, tuple[str, str, str]] = {}
        before, after, self.end = self._parts(NO_TURNS)
        found = self._end_of_turn()
        if found is None:
            raise ModelError(
                f"{KEY}: the template ends an answer with {self.end!r}, which is no token of its own, so that no "
                "answer would ever end; set it to false, or correct the template"
            )
        self.end_id: int = found
        self.remark = self._generation_remark(before, after)

    def frame(self, prompts: Sequence[Prompt], answers: Sequence[str], where: str) -> tuple[list[Prompt], list[str]]:
        """The prompts within the template, each up to its answer, and the answers as the template writes them.

        Special tokens such as the one that begins a sequence are written out as text.

        Args:
            where: what the conversations are of, for an error.

        Raises:
            DataError: the template cannot hold a conversation, or not so that its prompt is the same for any answer.
        """
        framed, written = [], []
        for prompt, answer in zip(prompts, answers, strict=True):
            at = prompt.place or where
            try:
                before, after, end = self._parts(prompt.turns)
                whole = self._render(prompt.turns, str(prompt), answer)
            except ModelError as error:
                raise DataError(
                    f"{prompt.place or where}: of the conversation {str(prompt)[:_SHOWN]!r}... {error}"
                ) from error
            if not whole.startswith(f"{before}{prompt}"):  # some templates drop white space around a turn
                prompt = prompt.stripped()
            head = f"{before}{prompt}{after}"
            if end != self.end or not (whole.startswith(head) and whole[len(head) :].endswith(end)):
                raise DataError(f"{at}: {KEY}: {_difference(whole, f'{head}{answer}{self.end}')}")
            framed.append(Prompt(before + prompt.before, prompt.text, prompt.after + after, place=prompt.place))
            written.append(whole[len(head) : len(whole) - len(end)])
        return framed, written

    def alone(self, answers: Sequence[str]) -> tuple[list[str], list[str]]:
        """The shortest prompt for each answer, and the answer as the template writes it behind that."""
        framed, written = self.frame([Prompt("", "?", "")] * len(answers), answers, "the answers")
        return [str(prompt) for prompt in framed], written

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens that each prompt has whatever its answer is; a space at its end is a token of the answer's."""
        begun = [self._ids([prompt + beginning for prompt in prompts]) for beginning in _BEGINNINGS]
        bare = [prompt.rstrip(" ") for prompt in prompts]
        found = []
        for prompt, text, without, *wholes in zip(prompts, bare, self._ids(bare), *begun, strict=True):
            own = wholes if text == prompt else [without, *wholes]
            found.append(own[0][: _alike(*own)])
        return found

    def ids(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each conversation in two: of the prompt, and those that are to be learned."""
        wholes = self._ids([prompt + answer + self.end for prompt, answer in zip(prompts, answers, strict=True)])
        seams = [_alike(*pair) for pair in zip(self.prompt_ids(prompts), wholes, strict=True)]
        return [(whole[:seam], whole[seam:]) for whole, seam in zip(wholes, seams, strict=True)]

    def _end_of_turn(self) -> int | None:
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        marked = next((token for token in self._ids([self.end])[0] if token in special), None)
        if marked is not None or not self.end.strip(" "):
            return marked
        answers = self._ids(_BEGINNINGS)
        ended = self._ids([answer + self.end for answer in _BEGINNINGS])
        first = {one[len(own)] if one[: len(own)] == own else None for own, one in zip(answers, ended, strict=True)}
        return first.pop() if len(first) == 1 else None

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As `apply_chat_template` tokenises: the template has written the special tokens."""
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _parts(self, turns: str) -> tuple[str, str, str]:
        """What stands before a user's turn that follows these turns, between it and its answer, and behind that."""
        if turns not in self._around:
            before, _, rest = self._render(turns, _ASKED, _ANSWERED).partition(_ASKED)
            after, answered, end = rest.partition(_ANSWERED)
            if not answered or any(mark in part for mark in (_ASKED, _ANSWERED) for part in (before, after, end)):
                raise ModelError(
                    f"{KEY}: the template does not hold a user's turn and its answer exactly once; set it to false"
                )
            self._around[turns] = before, after, end
        return self._around[turns]

    def _render(self, turns: str, asked: str, answer: str | None) -> str:
        conversation = [*json.loads(turns), {"role": "user", "content": asked}]
        if answer is not None:
            conversation.append({"role": "assistant", "content": answer})
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=answer is None
            )
        except Exception as error:  # no narrower: a template is a program, which can raise anything
            raise ModelError(f"{KEY}: the template cannot be rendered ({first_line(error)})") from error
        return rendered

    def _generation_remark(self, before: str, after: str) -> str | None:
        try:
            own = self._render(NO_TURNS, _ASKED, None)
        except ModelError:  # it is not used
            return None
        own = own.removeprefix(before).removeprefix(_ASKED)
        if own.rstrip() == after.rstrip():
            return None
        return (
            f"{KEY}: answers are learned and tested behind {after!r}, as the template writes whole conversations; its "
            f"generation prompt is {own!r}"
        )


def _alike(*rows: Sequence[Any]) -> int:
    """How many elements they have in common at their beginning."""
    differing = (at for at, values in enumerate(zip(*rows, strict=False)) if len(set(values)) > 1)
    return next(differing, min(map(len, rows)))


def _difference(whole: str, expected: str) -> str:
    at = max(_alike(whole, expected) - _SHOWN // 2, 0)
    return (
        f"the template writes a conversation as ...{whole[at : at + _SHOWN]!r}..., where any other has "
        f"...{expected[at : at + _SHOWN]!r}..., so that a test would not begin as training does; correct the data, or "
        "set it to false"
    )
