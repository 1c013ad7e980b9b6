"""Conversations as instruction data: the last assistant's turn is the answer, the user's turn before it the input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from clkit.errors import DataError
from clkit.tasks.records import blank, kind_of_value, valid_unicode

#: Each role by the names that public data sets have for it.
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


#: The turns before an input that nothing was said before.
NO_TURNS = "[]"


class Example(NamedTuple):
    """An input and its answer.

    Attributes:
        text: the input; of a conversation the user's turn that is answered.
        answer: None where there is none: of a conversation whose last assistant's turn does not follow a user's turn
            that has text, and of plain text.
        turns: what was said before, system turns included, as a JSON list of {role, content}.
    """

    text: str
    answer: str | None
    turns: str


def read_conversation(value: Any, where: str, column: str) -> Example:
    """The example in a list of turns, each with `role` and `content` (or `from` and `value`).

    Turns behind the last assistant's are left out.

    Raises:
        DataError: it is no such list, or a role is unknown.
    """
    turns = _turns(value, where, column, until="assistant")
    if len(turns) < 2 or turns[-2]["role"] != "user" or blank(turns[-2]["content"]):
        return Example("", None, NO_TURNS)
    *before, asked, answered = turns
    return Example(asked["content"], answered["content"], json.dumps(before, ensure_ascii=False))


def read_question(value: Any, where: str, column: str) -> Example:
    """The last user's turn of a conversation, to be answered; turns behind it are left out.

    Raises:
        DataError: it is no list of turns, a role is unknown, or no user says anything.
    """
    turns = _turns(value, where, column, until="user")
    if not turns or blank(turns[-1]["content"]):
        raise DataError(f"{where}: '{column}' has no user's turn to answer; correct or remove this record")
    return Example(turns[-1]["content"], None, json.dumps(turns[:-1], ensure_ascii=False))


def _turns(value: Any, where: str, column: str, until: str) -> list[dict[str, str]]:
    """The turns up to the last one of that role."""
    if not isinstance(value, list):
        raise DataError(f"{where}: '{column}' is {kind_of_value(value)}, not a list of turns; correct this record")
    turns = [_turn(turn, f"{where}: '{column}', turn {number}") for number, turn in enumerate(value, start=1)]
    while turns and turns[-1]["role"] != until:
        turns.pop()
    return turns


def _turn(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is {kind_of_value(value)}, not an object with role and content; correct this record")
    role, content = (value.get(key, value.get(other)) for key, other in (("role", "from"), ("content", "value")))
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(f"{where}: the role {role!r} is unknown (roles: {', '.join(_ROLES)}); correct this record")
    if content is None:  # a turn that calls a tool, say
        content = ""
    if not isinstance(content, str):
        raise DataError(f"{where}: its content is {kind_of_value(content)}, not text; correct or remove this record")
    return {"role": _ROLES[role], "content": valid_unicode(content, where)}
