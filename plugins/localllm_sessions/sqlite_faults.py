"""What goes wrong with a database file, as the errors that callers get: full, locked, gone, read-only, broken."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path

from localllm import LocalLLMError, SessionStorageFullError, SessionStoreUnavailableError

LITTLE_SPACE_BYTES = 64 * 1024
"""A write that fails with an I/O error while there is no more than this has failed for lack of space."""

Fault = sqlite3.Error | UnicodeDecodeError
"""What the binding raises: the second for names and texts in a damaged file, even those of SQLite's own messages."""

_IOERR = sqlite3.SQLITE_IOERR
# SQLITE_ERROR is a wrong statement: ours are right, so that it is the tables that aren't what they were.
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNREACHABLE = (_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)


class StoreStartError(Exception):
    """The store can't be opened, so that the server must not start. The message says what to do."""


def primary_code(error: Fault) -> int | None:
    """Return SQLite's primary result code, None for errors of the binding."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_io_error(error: BaseException) -> bool:
    """Say whether a connection can't be trusted any more: what a failed fsync was to write may be lost."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in _UNREACHABLE


def is_broken(error: Fault) -> bool:
    """Say whether the file is damaged."""
    code = primary_code(error)
    # Without a code it is the binding that can't read a column: text that is no longer UTF-8.
    unreadable = code is None and isinstance(error, (sqlite3.OperationalError, UnicodeDecodeError))
    return unreadable or code in _BROKEN


def as_store_error(error: Fault, path: Path) -> LocalLLMError | None:
    """Return what the caller gets, None for what is a mistake of ours."""
    code = primary_code(error)
    name = getattr(error, "sqlite_errorname", "")
    if code == sqlite3.SQLITE_FULL or (code == _IOERR and _lacks_space(path)):
        message = (
            "The conversation can't be kept: the disk, or what conversations may take of it, is full. Free space "
            "on the server, or delete sessions; requests without a session are not affected."
        )
        return SessionStorageFullError(message)
    if code in _BUSY:
        return unavailable("Another program holds the store of conversations locked; try again.")
    if is_broken(error):
        return broken()
    if code == sqlite3.SQLITE_READONLY:
        return unavailable("The store of conversations can be read, but not written.", retry_after_seconds=30)
    if code in _UNREACHABLE:
        return unavailable(f"The store of conversations could not be read or written ({name}); try again.")
    return None


def unavailable(message: str, *, retry_after_seconds: int = 1) -> SessionStoreUnavailableError:
    """Return the error for a store that is there, but not now."""
    return SessionStoreUnavailableError(message, retry_after_seconds=retry_after_seconds)


def closed() -> SessionStoreUnavailableError:
    """Return the error for a store that is not open yet, or no longer."""
    return unavailable("The store of conversations is closed: the server is starting, or shutting down.")


def broken() -> SessionStoreUnavailableError:
    """Return the error for content that is not what was written; the log and the manual say what to do."""
    message = "The store of conversations is damaged; whoever runs the server has to restore or recover its file."
    return unavailable(message, retry_after_seconds=60)


def recovery_advice(path: Path) -> str:
    """Return the sentence that says how to get on with a damaged file."""
    return (
        f"Nothing was changed. Put a backup in its place, or rescue what can be read: "
        f"sqlite3 '{path}' .recover > '{path}.sql' && sqlite3 '{path}.recovered' < '{path}.sql', "
        f"then move {path.name}.recovered to {path.name} (and {path.name}-wal away)."
    )


def _lacks_space(path: Path) -> bool:
    """Say whether the disk is full, or a file as large as this process may make it (RLIMIT_FSIZE: EFBIG)."""
    try:
        if shutil.disk_usage(path.parent).free <= LITTLE_SPACE_BYTES:
            return True
        limit = _largest_file_bytes()
        if limit is None:
            return False
        files = (path, path.with_name(f"{path.name}-wal"))
        return any(file.stat().st_size + LITTLE_SPACE_BYTES >= limit for file in files)
    except OSError:
        return False


def _largest_file_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit
