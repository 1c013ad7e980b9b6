"""JSON texts: strict, what is wrong with one in words, and long ones that are read bit by bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"\s*")
#: Characters of which a number's sign or exponent and any other word of JSON has fewer, such as two `\\uXXXX`.
_LONGEST_WORD = 16


class _KeyTwiceError(ValueError):
    """An object has a key twice."""


def json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON text, from the error of `json.loads`; the line is left to the caller."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    if isinstance(error, _KeyTwiceError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys stands once: of two, Python would take the last without a word."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _KeyTwiceError(f"the key '{name}' stands twice")
        found[name] = value
    return found


JSON = json.JSONDecoder(object_pairs_hook=_object)


class Unread:
    """What is left of a JSON text that comes in pieces; no more of it is held than a value needs, and a piece."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces, self._text, self._at = pieces, "", 0
        self._line, self._before = 1, 0  # characters of that line that are held no more

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._pass(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        self._pass(self._at + 1)

    def value(self) -> Any:
        self.next()
        while True:
            try:
                value, end = JSON.raw_decode(self._text, self._at)
                size, ends_here = end - self._at, end + _LONGEST_WORD <= len(self._text)  # else a number may go on
            except json.JSONDecodeError as error:
                ahead = error.pos - self._at
                cut = error.msg.startswith("Unterminated string") or error.pos + _LONGEST_WORD > len(self._text)
                if not cut or not self._read_on():
                    raise self.fault(error.msg, ahead) from None
            else:
                if ends_here or not self._read_on():
                    self._pass(self._at + size)
                    return value

    def fault(self, message: str, ahead: int = 0) -> json.JSONDecodeError:
        """An error so many characters ahead, with its place in the whole text."""
        error = json.JSONDecodeError(message, self._text[self._at :], ahead)
        error.colno += self._column() if error.lineno == 1 else 0
        error.lineno += self._line - 1
        return error

    def _column(self) -> int:
        begin = self._text.rfind("\n", 0, self._at) + 1
        return self._at - begin + (0 if begin else self._before)

    def _pass(self, end: int) -> None:
        self._line, self._at = self._line + self._text.count("\n", self._at, end), end

    def _read_on(self) -> bool:
        """Forget what was passed, and hold at least twice as much of what follows; False at the end of the text."""
        self._before, rest = self._column(), self._text[self._at :]
        read: list[str] = []
        for piece in self._pieces:
            read.append(piece)
            if sum(map(len, read)) > len(rest):
                break
        self._text, self._at = rest + "".join(read), 0
        return bool(read)
