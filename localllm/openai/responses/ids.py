"""Ids of responses, conversations and their items: unguessable, and an item's id tells where it is kept."""

from __future__ import annotations

import re
import secrets
from typing import Final, Literal, NamedTuple

_RANDOM_BYTES: Final = 16
_PLACED: Final = re.compile(r"[a-z]{2,8}_([0-9a-f]{32})([io])(\d{1,6})", re.ASCII)
_SIDES: Final[dict[str, Literal["input", "output"]]] = {"i": "input", "o": "output"}
_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}

MAX_ID_CHARS: Final = 512


class ItemPlace(NamedTuple):
    """Where the item stands that has a certain id."""

    response_id: str
    side: Literal["input", "output"]
    position: int


def new_response_id() -> str:
    """Return the id of a new response."""
    return f"resp_{secrets.token_hex(_RANDOM_BYTES)}"


def new_conversation_id() -> str:
    """Return the id of a new conversation."""
    return f"conv_{secrets.token_hex(_RANDOM_BYTES)}"


def new_item_id(kind: str) -> str:
    """Return the id of an item, of type ``kind``, that belongs to no response."""
    return f"{_PREFIXES[kind]}_{secrets.token_hex(_RANDOM_BYTES)}"


def item_id(kind: str, response_id: str, side: Literal["input", "output"], index: int) -> str:
    """Return the id of an item of a response; :func:`place_of` finds the way back, so that no index is kept."""
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}{side[0]}{index}"


def place_of(identity: str) -> ItemPlace | None:
    """Return where the item is kept, None for an id that :func:`item_id` did not make."""
    found = _PLACED.fullmatch(identity)
    return None if found is None else ItemPlace(f"resp_{found[1]}", _SIDES[found[2]], int(found[3]))
