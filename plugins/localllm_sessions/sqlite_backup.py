"""Copies of the conversations' database that are sound, made while a server may be writing to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from .sqlite_connection import connect_other, start_error
from .sqlite_faults import StoreStartError
from .sqlite_file import OWNER_ONLY, sync_folder
from .sqlite_schema import check_version

BUSY_SECONDS = 10.0


def back_up(path: Path, target: Path) -> int:
    """Write all that is committed in ``path`` into the new file ``target``; return its size in bytes.

    The copy is for its owner only, checked, and on the disk before it gets its name. SQLite itself reads the original
    (``VACUUM INTO``), in one transaction that holds nobody up. Raises :class:`StoreStartError`.
    """
    if not path.exists():
        message = f"there are no conversations yet: {path} does not exist"
        raise StoreStartError(message)
    if target.exists():
        message = f"{target} exists already; name another file, or remove it"
        raise StoreStartError(message)
    part = target.with_name(f"{target.name}.part")
    try:
        # SQLite writes into an empty file that is there, and would make one that others can read.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
        try:
            _copy(path, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        message = f"{target} can't be written: {error.strerror}"
        raise StoreStartError(message) from error
    finally:
        part.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(path: Path, part: Path) -> None:
    try:
        source = connect_other(path, busy_seconds=BUSY_SECONDS)
        try:
            check_version(source, path)
            source.execute("VACUUM INTO ?", (str(part),))
        finally:
            source.close()
        copy = connect_other(part, busy_seconds=BUSY_SECONDS)
        try:
            [found] = copy.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            copy.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise start_error(error, path) from error
    if found != "ok":
        message = f"{path} is damaged, and no copy was kept ({found})"
        raise StoreStartError(message)
