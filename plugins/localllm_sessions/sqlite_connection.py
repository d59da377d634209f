"""Connections to the conversations' database: how they are set up, and what is looked at before the first use."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from .sqlite_faults import Fault, StoreStartError, as_store_error, is_broken, recovery_advice
from .sqlite_schema import MIGRATIONS, Migration, check_version, migrate

OLDEST_SQLITE = (3, 27, 0)
PAGE_BYTES = 4096
LARGEST_CHECKED_BYTES = 256 * 1024 * 1024
"""A larger file is not read whole at every start: that takes SQLite a second or so for each few hundred MB."""

_LARGEST_LOG_BYTES = 16 * 1024 * 1024
_N_STATEMENTS = 256


def connect_writer(path: Path, *, busy_seconds: float, max_bytes: int = 0) -> sqlite3.Connection:
    """Return the connection that writes. What is committed on it survives power loss. The file must be there.

    Raises :class:`StoreStartError` where no write-ahead log is possible.
    """
    connection = _connect(path, "rw", busy_seconds)
    try:
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            message = (
                f"{path} can't have a write-ahead log (its journal mode stays {mode!r}): the file is damaged, or lies "
                "where memory can't be shared, such as on a network share; name another plugin.sessions.path"
            )
            raise StoreStartError(message)
        for pragma in (
            "synchronous = FULL",  # in WAL mode: fsync at every commit
            "foreign_keys = ON",
            "secure_delete = ON",  # what is deleted is overwritten, not left lying in free pages
            f"journal_size_limit = {_LARGEST_LOG_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if sys.platform == "darwin":  # there, fsync leaves data in the drive's cache
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        if max_bytes:
            connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE_BYTES)}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection that only reads, and never waits for the one that writes. The file must be there."""
    connection = _connect(path, "ro", busy_seconds)
    # The first read makes the log and its index if they are not there, so that their identity can be noted.
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_other(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection beside those of a server, which may run or not, for reading. The file must be there."""
    return _connect(path, "rw", busy_seconds)  # "ro" could not make the index of the log when nobody else has it open


def open_writer(
    path: Path, *, busy_seconds: float, max_bytes: int = 0, migrations: Sequence[Migration] = MIGRATIONS
) -> sqlite3.Connection:
    """Look into the file, bring its tables to the newest version, and return the connection that writes.

    Nothing is changed in a file that isn't sound or isn't ours. Raises :class:`StoreStartError`.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        message = f"Python's SQLite is {sqlite3.sqlite_version}, and conversations need {wanted} or newer"
        raise StoreStartError(message)
    try:
        _examine(path, busy_seconds, migrations)
        connection = connect_writer(path, busy_seconds=busy_seconds, max_bytes=max_bytes)
        try:
            migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise start_error(error, path) from error
    return connection


def _examine(path: Path, busy_seconds: float, migrations: Sequence[Migration]) -> None:
    """Check a file's version and soundness before anything is written to it."""
    connection = _connect(path, "rw", busy_seconds)
    try:
        if check_version(connection, path, migrations) == 0:
            # Free pages can be given back later; this must be chosen before the first table.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
        elif path.stat().st_size <= LARGEST_CHECKED_BYTES:
            [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                message = f"{path} is damaged ({found}). {recovery_advice(path)}"
                raise StoreStartError(message)
    finally:
        connection.close()


def _connect(path: Path, mode: str, busy_seconds: float) -> sqlite3.Connection:
    """Return a connection without transactions of the binding's own; ``mode`` never makes a file."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        cached_statements=_N_STATEMENTS,
        check_same_thread=False,  # opened, used and closed by one thread each, but not the same one
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def start_error(error: Fault, path: Path) -> StoreStartError:
    """Return why the server doesn't start with this file."""
    if is_broken(error):
        return StoreStartError(f"{path} is damaged ({error}). {recovery_advice(path)}")
    known = as_store_error(error, path)
    return StoreStartError(f"{path} can't be opened: {error}" + ("" if known is None else f" ({known.code})"))
