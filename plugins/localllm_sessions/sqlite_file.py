"""The database as a file: made for its owner only, used by one server at a time, and known again by its identity."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .sqlite_faults import StoreStartError, unavailable

OWNER_ONLY = 0o600
"""The mode of all files that hold conversations."""

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """Where the database lies. Nothing here opens a file that exists: see :meth:`prepare`."""

    path: Path

    def companion(self, ending: str) -> Path:
        """Return the file of SQLite's that lies beside it: ``-wal`` or ``-shm``; or our own ``.lock``."""
        return self.path.with_name(f"{self.path.name}{ending}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other server away. Raises :class:`StoreStartError` when one is there.

        The lock is on a file of its own: closing any descriptor of the database's file would drop SQLite's locks
        (https://www.sqlite.org/howtocorrupt.html, 2.2). It ends with the process, however that ends.
        """
        place = self.companion(".lock")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, OWNER_ONLY)
        except OSError as error:
            message = f"the conversations' folder {self.path.parent} can't be used: {error.strerror}"
            raise StoreStartError(message) from error
        try:
            try:
                _lock(descriptor)
            except OSError as error:
                message = (
                    f"another server already keeps its conversations in {self.path}; stop it, or give this one a "
                    "plugin.sessions.path, or a state_directory, of its own"
                )
                raise StoreStartError(message) from error
            yield
        finally:
            os.close(descriptor)

    def prepare(self) -> None:
        """See to it that the file is there, for its owner only. Called under the lock, before any connection.

        A file is made here, empty, because SQLite would make it readable for others; it gives what it makes later,
        the log and its index, the same mode. Raises :class:`StoreStartError` for what can't be a database of ours.
        """
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            self._create()
            return
        except OSError as error:
            message = f"the conversations' file {self.path} can't be reached: {error.strerror}"
            raise StoreStartError(message) from error
        if not stat.S_ISREG(mode):
            message = f"the conversations' file {self.path} is not a file; name another as plugin.sessions.path"
            raise StoreStartError(message)
        if not mode & stat.S_IWUSR:
            message = f"the conversations' file {self.path} is read-only; make it writable: chmod 600 '{self.path}'"
            raise StoreStartError(message)
        if sys.platform != "win32" and stat.S_IMODE(mode) & ~OWNER_ONLY:
            self.path.chmod(OWNER_ONLY)

    def _create(self) -> None:
        log = self.companion("-wal")
        if log.exists() and log.stat().st_size:
            message = (
                f"{self.path} is gone, but its log {log.name} is still there: a new database would destroy what is in "
                "the log; put the file back, or move the log away too"
            )
            raise StoreStartError(message)
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
            sync_folder(self.path.parent)
        except OSError as error:
            message = f"the conversations' file {self.path} can't be made: {error.strerror}"
            raise StoreStartError(message) from error

    def identify(self) -> dict[Path, Identity]:
        """Return which files the open connections have; called right after they were opened."""
        files = (self.path, self.companion("-wal"), self.companion("-shm"))
        return {file: _identity(file.stat()) for file in files}

    def check(self, known: dict[Path, Identity], *, to_write: bool) -> None:
        """See whether the files are those that were opened. Raises ``SessionStoreUnavailableError``.

        SQLite goes on with a file that was deleted, and what it writes there is lost. A few microseconds.
        """
        for file, identity in known.items():
            try:
                found = file.stat()
            except OSError:
                message = f"A file of the store of conversations is gone ({file.name}); the server must be restarted."
                raise unavailable(message, retry_after_seconds=60) from None
            if _identity(found) != identity:
                message = f"A file of the store of conversations was replaced ({file.name}) while the server has it."
                raise unavailable(message, retry_after_seconds=60)
            if to_write and not found.st_mode & stat.S_IWUSR:
                message = f"A file of the store of conversations was made read-only ({file.name})."
                raise unavailable(message, retry_after_seconds=30)


def sync_folder(folder: Path) -> None:
    """Make durable that a file was made, or renamed, in a folder. Windows has no such thing."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _lock(descriptor: int) -> None:
    """Lock the whole file for as long as the descriptor is open. Raises ``OSError`` when somebody else has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
