"""What a session is called until its owner says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .history import Message

_LENGTH: Final = 60


def title_of(messages: Sequence[Message]) -> str:
    """Return the first thing that the user says, on one line and shortened; "" where nothing is said."""
    said = next((one["content"] for one in messages if one["role"] == "user" and one["content"].strip()), "")
    line = " ".join(said[: 4 * _LENGTH].split())
    if len(line) <= _LENGTH:
        return line
    cut = line[: _LENGTH - 1]
    head, space, _ = cut.rpartition(" ")
    return f"{head if space and len(head) > _LENGTH // 2 else cut}…"
