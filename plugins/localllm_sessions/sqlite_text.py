"""How plain JSON stands in a column, and how it is known again that it is what was written."""

from __future__ import annotations

import json
import zlib
from typing import Any

from .sqlite_faults import broken

LARGEST_INTEGER = 2**63 - 1
"""The largest number that a column holds; larger ones are compared as this."""


def to_text(value: Any) -> str:  # noqa: ANN401
    """Return compact JSON. Halves of surrogate pairs, which no column can hold, are written as escapes.

    Raises ``ValueError`` for NaN and infinity.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if is_storable(text):
        return text
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def read_text(text: str) -> Any:  # noqa: ANN401
    """Return the value. Raises ``SessionStoreUnavailableError`` for what is no JSON: then the file is damaged."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        raise broken() from None


def read_checked(text: str, checksum: int, *place: str | int) -> Any:  # noqa: ANN401
    """Return the value if text and place are those that were written, bit by bit; raises as :func:`read_text` does."""
    if not isinstance(text, str) or checksum_of(text, *place) != checksum:
        raise broken()
    return read_text(text)


def checksum_of(text: str, *place: str | int) -> int:
    """Return what :func:`read_checked` compares; ``place`` is the row's key, as far as nothing else guards it."""
    return zlib.crc32("\x00".join((*map(str, place), text)).encode())


def is_storable(text: str) -> bool:
    """Say whether a column can hold it: what can't be stored can't be found either."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bounded(number: int) -> int:
    """Return the nearest number that a column can be compared with."""
    return max(-LARGEST_INTEGER, min(number, LARGEST_INTEGER))
