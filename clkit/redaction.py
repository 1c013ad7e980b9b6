"""Keeps access tokens and passwords out of what clkit prints and records."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

_PATTERNS = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),  # an access token of the Hugging Face hub
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # user:password in a URL
    re.compile(r"(?i)(?<=\bBearer )\S+"),
    re.compile(r"(?i)(?<=token=)[^&\s'\"]{8,}"),
)
#: Environment variables whose value is a secret, by their name.
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|CREDENTIAL")
#: Shorter values, such as `1` or `true`, are switches and no secrets; replacing them would garble any text.
_SHORTEST = 6


def redact(text: str) -> str:
    """The text with `***` for whatever is a secret or looks like one.

    That is: the value of an environment variable such as `HF_TOKEN`, anything of the form of a hub token (`hf_...`),
    the user and password of a URL, and what follows `Bearer` or `token=`.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name.upper()) and len(value) >= _SHORTEST and not _is_path(value):
            text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    return text


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~", "."))  # HF_TOKEN_PATH says where a token lies


def recordable(text: str) -> str:
    """A command-line argument as a JSON file in UTF-8 can hold it: secrets hidden, bytes that are no text escaped."""
    return redact(text).encode("utf-8", "backslashreplace").decode()
