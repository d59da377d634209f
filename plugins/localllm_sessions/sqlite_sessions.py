"""Sessions and their messages as rows. Every statement finds by owner; transactions are the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from localllm import (
    Session,
    SessionChange,
    SessionConflictError,
    SessionNotFoundError,
    StoredMessage,
    Turn,
    Usage,
)

from .sqlite_faults import broken
from .sqlite_text import LARGEST_INTEGER, bounded, checksum_of, is_storable, read_checked, read_text, to_text

_LEADING_ROLES = ("system", "developer")

_COLUMNS = (
    "id, owner, created_at, used_at, title, model, n_messages, prompt_tokens, completion_tokens, cached_tokens, "
    "reasoning_tokens, context_tokens, metadata, state, last_use, n_turns, n_leading, n_message_bytes"
)


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a session begins with. ``id`` was made by the server."""

    owner: str
    id: str
    model: str | None
    title: str
    metadata: Mapping[str, Any]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A session with what only its store knows: how it is sorted, and what its messages are."""

    session: Session
    last_use: int
    n_turns: int
    n_leading: int
    n_message_bytes: int


def create_session(connection: sqlite3.Connection, new: NewSession, now: float) -> Session:
    """Begin a session. Raises ``SessionConflictError`` when anybody has one of this id."""
    if connection.execute("SELECT 1 FROM sessions WHERE id = ?", (new.id,)).fetchone():
        message = f"There is a session {new.id!r} already."
        raise SessionConflictError(message)
    title, metadata, state = to_text(new.title), to_text(dict(new.metadata)), to_text({})
    connection.execute(
        "INSERT INTO sessions (owner, id, created_at, used_at, last_use, n_bytes, model, title, metadata, state) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(new.owner, new.id, now, now, _next_use(connection, new.owner), _n_bytes(title, metadata, state)),
            *(new.model, title, metadata, state),
        ),
    )
    if new.turns:
        _add_turns(connection, _find(connection, new.owner, new.id), new.turns, now)
    return get_session(connection, new.owner, new.id)


def get_session(connection: sqlite3.Connection, owner: str, session_id: str) -> Session:
    """Return a session. Raises ``SessionNotFoundError``, as all that follow do."""
    return _find(connection, owner, session_id).session


def list_sessions(connection: sqlite3.Connection, owner: str, limit: int, after: str | None) -> list[Session]:
    """Return the sessions that were used last, from the one behind ``after`` on."""
    last_use = bounded(2**63) if after is None else _find(connection, owner, after).last_use
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND last_use < ? ORDER BY last_use DESC LIMIT ?",  # noqa: S608
        (owner, last_use, bounded(limit)),
    ).fetchall()
    return [_read(columns).session for columns in found]


def change_session(connection: sqlite3.Connection, owner: str, session_id: str, change: SessionChange) -> Session:
    """Change title and metadata."""
    row = _find(connection, owner, session_id)
    title = to_text(row.session.title if change.title is None else change.title)
    metadata = to_text(dict(row.session.metadata if change.metadata is None else change.metadata))
    n_bytes = row.n_message_bytes + _n_bytes(title, metadata, to_text(row.session.state))
    connection.execute(
        "UPDATE sessions SET title = ?, metadata = ?, n_bytes = ? WHERE owner = ? AND id = ?",
        (title, metadata, n_bytes, owner, session_id),
    )
    return get_session(connection, owner, session_id)


def delete_session(connection: sqlite3.Connection, owner: str, session_id: str) -> None:
    """Forget a session; its messages go with it."""
    _find(connection, owner, session_id)
    connection.execute("DELETE FROM sessions WHERE owner = ? AND id = ?", (owner, session_id))


def append_turn(
    connection: sqlite3.Connection, owner: str, session_id: str, turn: Turn, *, after: int, now: float
) -> Session:
    """Append one turn. Raises ``SessionConflictError`` when there are not ``after`` messages."""
    row = _find_whole(connection, owner, session_id)
    if after != row.session.n_messages:
        message = (
            f"The session has {row.session.n_messages} messages, not {after}: it went on in the meantime. Read what "
            "was added, and send the request again."
        )
        raise SessionConflictError(message)
    _add_turns(connection, row, (turn,), now)
    connection.execute(
        "UPDATE sessions SET last_use = ? WHERE owner = ? AND id = ?",
        (_next_use(connection, owner), owner, session_id),
    )
    return get_session(connection, owner, session_id)


def read_messages(
    connection: sqlite3.Connection, owner: str, session_id: str, *, limit: int, start: int
) -> list[StoredMessage]:
    """Return messages in order, from number ``start`` on."""
    n_messages = _find_whole(connection, owner, session_id).session.n_messages
    return _messages(connection, owner, session_id, min(start, n_messages), min(start + limit, n_messages))


def read_recent(
    connection: sqlite3.Connection, owner: str, session_id: str, max_bytes: int, max_messages: int | None = None
) -> list[StoredMessage]:
    """Return the leading instructions and the last whole turns that fit, at least one.

    Reads backwards, and bodies only of what is returned: what lies further back costs nothing.
    """
    row = _find_whole(connection, owner, session_id)
    first = _first_that_fits(connection, owner, session_id, max_bytes, max_messages)
    if first is None:
        return []
    leading = _messages(connection, owner, session_id, 0, min(row.n_leading, first))
    return leading + _messages(connection, owner, session_id, first, row.session.n_messages)


def _first_that_fits(
    connection: sqlite3.Connection, owner: str, session_id: str, max_bytes: int, max_messages: int | None
) -> int | None:
    """Return the number of the first message of the last whole turns that fit; None when there is no message."""
    statement = "SELECT number, turn, n_bytes FROM messages WHERE owner = ? AND session_id = ? ORDER BY number DESC"
    with closing(connection.execute(statement, (owner, session_id))) as backwards:
        return _walk_back(backwards, max_bytes, LARGEST_INTEGER if max_messages is None else max_messages)


def _walk_back(backwards: Iterable[tuple[int, int, int]], max_bytes: int, max_messages: int) -> int | None:
    """Return what :func:`_first_that_fits` does, of number, turn and size of messages from the last one on."""
    first: int | None = None  # where the turns begin that fit for certain
    reading: tuple[int, int] | None = None  # the turn being read, and where it begins as far as it is known
    taken = 0
    for n_read, (number, turn, n_bytes) in enumerate(backwards):
        if reading is not None and turn != reading[0]:
            first = reading[1]
            if taken > max_bytes or n_read > max_messages:
                return first
        taken += n_bytes
        reading = (turn, number)
        if first is not None and (taken > max_bytes or n_read >= max_messages):
            return first
    return first if reading is None else reading[1]


def _messages(connection: sqlite3.Connection, owner: str, session_id: str, start: int, end: int) -> list[StoredMessage]:
    """Return the messages from number ``start`` to before ``end``, which are all there.

    No cursor is left open when one of them can't be read: it would hold on to what the database was then.
    """
    found = connection.execute(
        "SELECT number, turn, created_at, body, checksum FROM messages "
        "WHERE owner = ? AND session_id = ? AND number >= ? AND number < ? ORDER BY number",
        (owner, session_id, start, end),
    ).fetchall()
    messages = [
        StoredMessage(number, turn, created_at, read_checked(body, checksum, session_id, number, turn))
        for number, turn, created_at, body, checksum in found
    ]
    if len(messages) != max(0, end - start):
        raise broken()
    return messages


def _add_turns(connection: sqlite3.Connection, row: _Row, turns: Iterable[Turn], now: float) -> None:
    """Append turns. However many there are, the session is written once: nobody else writes meanwhile."""
    columns: list[tuple[Any, ...]] = []
    for turn in turns:
        bodies = [to_text(dict(message)) for message in turn.messages]
        sizes = [len(body.encode()) for body in bodies]
        first, number_of_turn, session_id = row.session.n_messages, row.n_turns, row.session.id
        columns += [
            (
                *(row.session.owner, session_id, number, number_of_turn, now, size),
                *(checksum_of(body, session_id, number, number_of_turn), body),
            )
            for number, (body, size) in enumerate(zip(bodies, sizes, strict=True), first)
        ]
        row = _with_turn(row, turn, sum(sizes))
    connection.executemany(
        "INSERT INTO messages (owner, session_id, number, turn, created_at, n_bytes, checksum, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        columns,
    )
    session, usage = row.session, row.session.usage
    title, state = to_text(session.title), to_text(dict(session.state))
    n_bytes = row.n_message_bytes + _n_bytes(title, to_text(session.metadata), state)
    connection.execute(
        "UPDATE sessions SET used_at = ?, n_messages = ?, n_turns = ?, n_leading = ?, n_message_bytes = ?, "
        "n_bytes = ?, prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?, reasoning_tokens = ?, "
        "context_tokens = ?, model = ?, title = ?, state = ? WHERE owner = ? AND id = ?",
        (
            *(now, session.n_messages, row.n_turns, row.n_leading, row.n_message_bytes, n_bytes),
            *(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens),
            *(session.context_tokens, session.model, title, state, session.owner, session.id),
        ),
    )


def _with_turn(row: _Row, turn: Turn, n_bytes: int) -> _Row:
    """Return a session as it is with one more turn, whose messages take so many bytes."""
    session, n_added = row.session, len(turn.messages)
    return replace(
        row,
        session=replace(
            session,
            n_messages=session.n_messages + n_added,
            usage=session.usage + turn.usage,
            context_tokens=turn.context_tokens or session.context_tokens,
            model=session.model if turn.model is None else turn.model,
            title=session.title or turn.title,
            state=session.state if turn.state is None else turn.state,
        ),
        n_turns=row.n_turns + bool(n_added),
        n_leading=_n_leading(row, turn.messages),
        n_message_bytes=row.n_message_bytes + n_bytes,
    )


def _n_leading(row: _Row, messages: Sequence[Mapping[str, Any]]) -> int:
    """Return how many messages the session begins with that are instructions, with those that are added now."""
    if row.n_leading < row.session.n_messages:
        return row.n_leading
    others = (index for index, message in enumerate(messages) if message.get("role") not in _LEADING_ROLES)
    return row.n_leading + next(others, len(messages))


def _next_use(connection: sqlite3.Connection, owner: str) -> int:
    """Return the next number by which an owner's sessions are sorted: clocks may go backwards."""
    [last] = connection.execute("SELECT max(last_use) FROM sessions WHERE owner = ?", (owner,)).fetchone()
    return int(last or 0) + 1


def _n_bytes(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)


def _find_whole(connection: sqlite3.Connection, owner: str, session_id: str) -> _Row:
    """Return a session that counts as many messages as there are: none is overlooked, none written in its place."""
    row = _find(connection, owner, session_id)
    [last] = connection.execute(
        "SELECT max(number) FROM messages WHERE owner = ? AND session_id = ?", (owner, session_id)
    ).fetchone()
    if row.session.n_messages != (0 if last is None else last + 1):
        raise broken()
    return row


def _find(connection: sqlite3.Connection, owner: str, session_id: str) -> _Row:
    if not is_storable(session_id):
        raise SessionNotFoundError(session_id)
    columns = connection.execute(
        f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND id = ?",  # noqa: S608 - a constant
        (owner, session_id),
    ).fetchone()
    if columns is None:
        raise SessionNotFoundError(session_id)
    return _read(columns)


def _read(columns: tuple[Any, ...]) -> _Row:
    session_id, owner, created_at, used_at, title, model, n_messages = columns[:7]
    metadata, state, last_use, n_turns, n_leading, n_message_bytes = columns[12:]
    session = Session(
        id=session_id,
        owner=owner,
        created_at=created_at,
        used_at=used_at,
        title=read_text(title),
        model=model,
        n_messages=n_messages,
        usage=Usage(*columns[7:11]),
        context_tokens=columns[11],
        metadata=read_text(metadata),
        state=read_text(state),
    )
    return _Row(session, last_use, n_turns, n_leading, n_message_bytes)
