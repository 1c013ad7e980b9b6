"""Conversations in a tokenizer's chat template: what is trained is what it makes of the whole conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from clkit.errors import DataError, ModelError, first_line
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import Prompt

#: Where in a rendered conversation something is learned: from which letter, and up to which.
Spans = list[tuple[int, int]]

KEY = "prompt.chat_template"
NO_CHAT_TEMPLATE = (
    f"{KEY}: the model's tokenizer has no chat template; set it to false, or use a model that is tuned for "
    "conversations"
)
#: Stand for a user's turn and its answer while the template is rendered; no template holds or changes them.
_ASKED, _ANSWERED = "clkit0asked0clkit", "clkit0answered0clkit"
#: Beginnings of answers: the tokens that stand before each of them are the prompt's.
_BEGINNINGS = ("a", "0")
#: What a template has around the assistant's turns that says what is learned of them.
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
#: Different beginnings of conversations whose renderings are kept.
_KEPT = 1000
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

    def frame(
        self, prompts: Sequence[Prompt], answers: Sequence[str], where: str, *, all_turns: bool = False
    ) -> tuple[list[Prompt], list[str]]:
        """The prompts within the template, each up to its answer, and the answers as the template writes them.

        Special tokens such as the one that begins a sequence are written out as text.

        Args:
            where: what the conversations are of, for an error.
            all_turns: mark in the prompts what is learned of them (`Prompt.learned`).

        Raises:
            DataError: the template cannot hold a conversation, or not so that its prompt is the same for any answer.
        """
        if all_turns and not self._tokenizer.is_fast:
            raise DataError(
                f"{where}: objective.loss_on: all_turns needs to know where in a text its tokens stand, and a "
                f"{type(self._tokenizer).__name__} does not say; use loss_on: last"
            )
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
            made = Prompt(before + prompt.before, prompt.text, prompt.after + after, place=prompt.place)
            if all_turns:
                spans = self._assistants(prompt.turns, str(prompt), answer, whole, at)
                own = [(first, last) for first, last in spans if last <= len(before)]
                begun = next((first for first, last in spans if first < len(head) < last), len(head))
                made = replace(made, learned=tuple(own), learned_end=len(head) - begun)
            framed.append(made)
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

    def also_learned(
        self, prompts: Sequence[str], answers: Sequence[str], learned: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[bool | None]]:
        """Which tokens of each conversation are learned beside its last answer, which of that are not (False), and of
        which nothing is said (None).

        Args:
            learned: where in each prompt something is learned (`Prompt.all_learned`).
        """
        texts = [prompt + answer + self.end for prompt, answer in zip(prompts, answers, strict=True)]
        places = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found = []
        for prompt, answer, spans, tokens in zip(prompts, answers, learned, places["offset_mapping"], strict=True):
            end = len(prompt) + len(answer) + self._learned_end
            marks: list[bool | None] = []
            for first, last in tokens:
                inside = any(first < until and begin < last for begin, until in spans)
                marks.append(inside or (None if first < end else False))
            found.append(marks)
        return found

    @cached_property
    def _marked(self) -> bool:
        return _MARKS.search(self._tokenizer.get_chat_template()) is not None

    @cached_property
    def _learned_end(self) -> int:
        """How many letters of what ends the last answer are learned."""
        if not self._marked:
            return len(self.end)
        whole = self._render(NO_TURNS, _ASKED, _ANSWERED)
        _, last = self._marks(NO_TURNS, _ASKED, _ANSWERED)[-1]
        return max(last - whole.index(_ANSWERED) - len(_ANSWERED), 0)

    def _assistants(self, turns: str, asked: str, answer: str, whole: str, at: str) -> Spans:
        """Where the assistant's turns stand in a conversation, what ends them included.

        Raises:
            DataError: the template marks nothing of it, or hides where a turn is.
        """
        if self._marked:
            found = [(first, last) for first, last in self._marks(turns, asked, answer) if first < last]
            if not found:
                raise DataError(
                    f"{at}: objective.loss_on: the chat template marks nothing of this conversation by "
                    "{% generation %}, so nothing would be learned; correct the data or the template"
                )
            return found
        found, said = [], json.loads(turns)
        for index, turn in enumerate(said):
            if turn["role"] != "assistant" or not turn["content"].strip():
                continue
            marked = json.dumps([*said[:index], {**turn, "content": _ANSWERED}, *said[index + 1 :]])
            before, _, after = self._render(marked, asked, answer).partition(_ANSWERED)
            if not (whole.startswith(before) and whole.endswith(after)) or len(before) + len(after) > len(whole):
                raise DataError(
                    f"{at}: objective.loss_on: the chat template does not show where the assistant's turn "
                    f"{turn['content'][:_SHOWN]!r} stands; use loss_on: last, or a template with {{% generation %}}"
                )
            alike = _alike(after, self.end)  # perhaps only a part of its last token
            ended = max((last for last in self._ends_of_tokens if last <= alike), default=0)
            found.append((len(before), len(whole) - len(after) + ended))
        return found

    @cached_property
    def _ends_of_tokens(self) -> list[int]:
        """Behind which letters of what ends an answer a token ends."""
        places = self._tokenizer(self.end, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [last for _, last in places]

    def _marks(self, turns: str, asked: str, answer: str) -> Spans:
        """What the template itself marks as the assistant's."""
        from transformers.utils.chat_template_utils import render_jinja_template  # which a check does without

        conversation = [
            *json.loads(turns),
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
        _, found = render_jinja_template(
            [conversation],
            chat_template=self._tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        return [(first, last) for first, last in found[0]]

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
            if len(self._around) >= _KEPT:  # of millions of conversations, most with turns of their own
                self._around.clear()
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
