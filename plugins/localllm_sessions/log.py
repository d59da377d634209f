"""What a session holds, as far as a turn needs to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from localllm import Session, SessionStore, StoredMessage

from .history import INSTRUCTION_ROLES, REPLACES, Message, count_known, has_answers
from .window import MAX_MESSAGES

_PAGE: Final = 256
_MAX_READ: Final = 2 * MAX_MESSAGES
"""More than a prompt may have, so that the window moves many messages at a time."""


@dataclass(frozen=True, slots=True)
class Log:
    """The end of a session. ``instructions`` are those that count; ``messages`` are the others that were read.

    ``n_leading`` is how many messages of the system the session begins with, ``complete`` whether all was read.
    """

    session: Session
    instructions: tuple[Message, ...]
    messages: tuple[StoredMessage, ...]
    n_leading: int = 0
    complete: bool = True


async def read_log(store: SessionStore, session: Session, max_bytes: int) -> Log:
    """Read the end of a session, at most so many bytes of it, and messages. Raises what the store raises."""
    if not session.n_messages:
        return Log(session, (), ())
    found = await store.recent(session.owner, session.id, max_bytes=max_bytes, max_messages=_MAX_READ)
    n_leading = 0
    for one in found:
        if one.index != n_leading or one.message["role"] not in INSTRUCTION_ROLES:
            break
        n_leading += 1
    instructions = session.state.get("instructions", [one.message for one in found[:n_leading]])
    rest = found[n_leading:]
    complete = not rest or rest[0].index == n_leading
    return Log(session, tuple(instructions), _said(rest), n_leading, complete)


async def count_stored(store: SessionStore, log: Log, sent: Sequence[Message]) -> int:
    """Return how many of the first messages of ``sent`` the session has already, reading more of it where need be.

    Raises ``SessionConflictError`` as ``count_known`` does, and what the store raises.
    """
    stored, complete = log.messages, log.complete
    if has_answers(sent) and not complete and len(sent) > len(stored):
        first = stored[0].index if stored else log.session.n_messages
        start = max(log.n_leading, first - (len(sent) - len(stored)))
        stored = (*await _read(store, log.session, start, first), *stored)
        complete = start == log.n_leading
    return count_known(sent, [one.message for one in stored], complete=complete)


async def _read(store: SessionStore, session: Session, start: int, stop: int) -> tuple[StoredMessage, ...]:
    found: list[StoredMessage] = []
    while start < stop:
        page = await store.messages(session.owner, session.id, start=start, limit=min(_PAGE, stop - start))
        if not page:
            break
        found += page
        start += len(page)
    return _said(found)


def _said(messages: Sequence[StoredMessage]) -> tuple[StoredMessage, ...]:
    """Return the messages without instructions that replaced others: these stand at the head, or nowhere."""
    return tuple(one for one in messages if not one.message.get(REPLACES))
