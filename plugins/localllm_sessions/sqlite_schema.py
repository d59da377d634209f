"""The tables of the conversations' database, their versions, and how an older one becomes the newest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from .sqlite_faults import StoreStartError

APPLICATION_ID = 0x4C4C4D53
"""``LLMS``: by it a database is known to be ours (https://www.sqlite.org/pragma.html#pragma_application_id)."""

Migration = Callable[[sqlite3.Connection], None]
"""Brings a database from one version to the next, inside of a transaction that it neither begins nor ends."""

# The owner stands first in every key: no query finds anything without one. Tables without a rowid keep what belongs
# to one session together, so that its last messages are neighbours; bodies stand behind what is read without them.
_VERSION_1 = (
    """
    CREATE TABLE sessions (
        owner TEXT NOT NULL,
        id TEXT NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL,
        last_use INTEGER NOT NULL,
        n_messages INTEGER NOT NULL DEFAULT 0,
        n_turns INTEGER NOT NULL DEFAULT 0,
        n_leading INTEGER NOT NULL DEFAULT 0,
        n_message_bytes INTEGER NOT NULL DEFAULT 0,
        n_bytes INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0,
        reasoning_tokens INTEGER NOT NULL DEFAULT 0,
        context_tokens INTEGER NOT NULL DEFAULT 0,
        model TEXT,
        title TEXT NOT NULL,
        metadata TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (owner, id)
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX sessions_by_id ON sessions (id)",
    "CREATE INDEX sessions_by_use ON sessions (owner, last_use)",
    "CREATE INDEX sessions_by_age ON sessions (used_at)",
    """
    CREATE TABLE messages (
        owner TEXT NOT NULL,
        session_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        turn INTEGER NOT NULL,
        created_at REAL NOT NULL,
        n_bytes INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (owner, session_id, number),
        FOREIGN KEY (owner, session_id) REFERENCES sessions (owner, id) ON DELETE CASCADE
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE records (
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        belongs_to TEXT NOT NULL,
        position INTEGER NOT NULL,
        created_at REAL NOT NULL,
        kept_at REAL NOT NULL,
        n_bytes INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (owner, id, kind)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX records_by_group ON records (owner, belongs_to, kind, position, id)",
    "CREATE INDEX records_by_age ON records (kept_at)",
    # What each owner keeps is summed up by triggers, so that no statement can forget to.
    """
    CREATE TABLE owners (
        owner TEXT NOT NULL PRIMARY KEY,
        n_sessions INTEGER NOT NULL,
        n_bytes INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TRIGGER session_added AFTER INSERT ON sessions BEGIN
        INSERT INTO owners VALUES (new.owner, 1, new.n_bytes)
        ON CONFLICT (owner) DO UPDATE SET n_sessions = n_sessions + 1, n_bytes = n_bytes + new.n_bytes;
    END
    """,
    """
    CREATE TRIGGER session_changed AFTER UPDATE OF n_bytes ON sessions BEGIN
        UPDATE owners SET n_bytes = n_bytes + new.n_bytes - old.n_bytes WHERE owner = new.owner;
    END
    """,
    """
    CREATE TRIGGER session_removed AFTER DELETE ON sessions BEGIN
        UPDATE owners SET n_sessions = n_sessions - 1, n_bytes = n_bytes - old.n_bytes WHERE owner = old.owner;
        DELETE FROM owners WHERE owner = old.owner AND n_bytes = 0;
    END
    """,
    """
    CREATE TRIGGER record_added AFTER INSERT ON records BEGIN
        INSERT INTO owners VALUES (new.owner, 0, new.n_bytes)
        ON CONFLICT (owner) DO UPDATE SET n_bytes = n_bytes + new.n_bytes;
    END
    """,
    """
    CREATE TRIGGER record_changed AFTER UPDATE OF n_bytes ON records BEGIN
        UPDATE owners SET n_bytes = n_bytes + new.n_bytes - old.n_bytes WHERE owner = new.owner;
    END
    """,
    """
    CREATE TRIGGER record_removed AFTER DELETE ON records BEGIN
        UPDATE owners SET n_bytes = n_bytes - old.n_bytes WHERE owner = old.owner;
        DELETE FROM owners WHERE owner = old.owner AND n_bytes = 0;
    END
    """,
)


def _create_tables(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1:
        connection.execute(statement)


MIGRATIONS: tuple[Migration, ...] = (_create_tables,)
"""From no tables to version 1, from there to version 2, and so on; one that has been released never changes."""


def check_version(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the version of a database, 0 for an empty one. Changes nothing.

    Raises :class:`StoreStartError` when it is somebody else's, or of a newer server.
    """
    [application_id] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [n_tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id == 0 and version == 0 and n_tables == 0:
        return 0
    if application_id != APPLICATION_ID:
        message = f"{path} is the database of another program; name another file as plugin.sessions.path"
        raise StoreStartError(message)
    if version > len(migrations):
        message = (
            f"{path} was written by a newer server (its tables have version {version}, this one knows "
            f"{len(migrations)}): run that one, or put a backup from before in its place"
        )
        raise StoreStartError(message)
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a database to the newest version, in one transaction: a crash leaves the old version or the new one."""
    if check_version(connection, path, migrations) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for migration in migrations[check_version(connection, path, migrations) :]:
            migration(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
