"""What one owner may keep: looked at inside of the transaction that would make it more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from localllm import SessionQuotaExceededError


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """0: no limit. Bytes are those of JSON, not of pages on the disk."""

    max_sessions: int = 0
    max_bytes: int = 0


def kept_by(connection: sqlite3.Connection, owner: str) -> tuple[int, int]:
    """Return how many sessions an owner has, and the bytes of those and of all records."""
    found = connection.execute("SELECT n_sessions, n_bytes FROM owners WHERE owner = ?", (owner,)).fetchone()
    return (found[0], found[1]) if found else (0, 0)


@contextmanager
def within_limits(connection: sqlite3.Connection, owner: str, limits: OwnerLimits) -> Iterator[None]:
    """Let something be kept. Raises ``SessionQuotaExceededError`` when it was too much; the caller rolls back.

    Who has too much already, since the limit was lowered, may still make it less.
    """
    before_sessions, before_bytes = kept_by(connection, owner)
    yield
    n_sessions, n_bytes = kept_by(connection, owner)
    if limits.max_sessions and n_sessions > max(limits.max_sessions, before_sessions):
        message = f"This API key has {before_sessions} sessions, as many as it may; delete some that are over."
        raise SessionQuotaExceededError(message)
    if limits.max_bytes and n_bytes > max(limits.max_bytes, before_bytes):
        message = (
            f"This API key keeps {before_bytes} bytes of conversations, {n_bytes - before_bytes} more are asked for, "
            f"and it may keep {limits.max_bytes}; delete some that are over."
        )
        raise SessionQuotaExceededError(message)
