"""Records as rows, and what has not been used for so long that it is forgotten. Every lookup is by owner."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from localllm import Record

from .sqlite_text import bounded, checksum_of, is_storable, read_checked, to_text

_COLUMNS = "kind, id, body, created_at, belongs_to, position, checksum"


def put_records(connection: sqlite3.Connection, owner: str, records: Sequence[Record], now: float) -> None:
    """Keep records; one of the same kind and id is replaced."""
    rows = []
    for record in records:
        body = to_text(dict(record.body))
        rows.append(
            (
                *(owner, record.kind, record.id, record.group, bounded(record.position), record.created_at, now),
                *(len(body.encode()), checksum_of(body), body),
            )
        )
    connection.executemany(
        "INSERT INTO records (owner, kind, id, belongs_to, position, created_at, kept_at, n_bytes, checksum, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (owner, id, kind) DO UPDATE SET belongs_to = excluded.belongs_to, position = excluded.position, "
        "created_at = excluded.created_at, kept_at = excluded.kept_at, n_bytes = excluded.n_bytes, "
        "checksum = excluded.checksum, body = excluded.body",
        rows,
    )


def get_record(connection: sqlite3.Connection, owner: str, kind: str, record_id: str) -> Record | None:
    """Return a record, or None."""
    if not is_storable(record_id):
        return None
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM records WHERE owner = ? AND kind = ? AND id = ?",  # noqa: S608 - a constant
        (owner, kind, record_id),
    ).fetchone()
    return None if found is None else _read(found)


def list_records(
    connection: sqlite3.Connection,
    owner: str,
    kind: str,
    *,
    group: str,
    limit: int,
    after: int | None,
    newest_first: bool,
) -> list[Record]:
    """Return a group's records by position, and by id where that is the same."""
    if not is_storable(group):
        return []
    direction, behind = ("DESC", "<") if newest_first else ("ASC", ">")
    start = (bounded(2**63) if newest_first else -bounded(2**63)) if after is None else bounded(after)
    comparison = f"{behind}=" if after is None else behind
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM records "  # noqa: S608 - of constants
        f"WHERE owner = ? AND belongs_to = ? AND kind = ? AND position {comparison} ? "
        f"ORDER BY position {direction}, id {direction} LIMIT ?",
        (owner, group, kind, start, bounded(limit)),
    ).fetchall()
    return [_read(columns) for columns in found]


def delete_record(connection: sqlite3.Connection, owner: str, kind: str, record_id: str) -> bool:
    """Forget a record and those whose group it is; return whether there was one."""
    if not is_storable(record_id):
        return False
    key = (owner, kind, record_id)
    if not connection.execute("DELETE FROM records WHERE owner = ? AND kind = ? AND id = ?", key).rowcount:
        return False
    if record_id:  # the group "" is no record's
        connection.execute("DELETE FROM records WHERE owner = ? AND belongs_to = ?", (owner, record_id))
    return True


def forget_unused(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Forget sessions, and records, that nobody has added to since ``before``; at most ``limit`` of each.

    A record stays as long as something of its group is younger. Returns how many sessions and records went.
    """
    n_sessions = connection.execute(
        "DELETE FROM sessions WHERE (owner, id) IN (SELECT owner, id FROM sessions WHERE used_at < ? LIMIT ?)",
        (before, limit),
    ).rowcount
    n_records = connection.execute(
        """
        DELETE FROM records WHERE (owner, id, kind) IN (
            SELECT owner, id, kind FROM records AS old
            WHERE old.kept_at < :before
            AND NOT EXISTS (
                SELECT 1 FROM records AS part WHERE part.owner = old.owner AND part.kept_at >= :before
                AND part.belongs_to = CASE old.belongs_to WHEN '' THEN old.id ELSE old.belongs_to END
            )
            AND NOT EXISTS (
                SELECT 1 FROM records AS whole WHERE whole.owner = old.owner AND whole.kept_at >= :before
                AND whole.id = old.belongs_to
            )
            LIMIT :limit
        )
        """,
        {"before": before, "limit": limit},
    ).rowcount
    return n_sessions + n_records


def _read(columns: tuple[Any, ...]) -> Record:
    kind, record_id, body, created_at, group, position, checksum = columns
    return Record(kind, record_id, read_checked(body, checksum), created_at, group, position)
