"""The store of conversations that comes with the server: SQLite in one file, behind methods that never block."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from localllm import LocalLLMError, PluginContext, Record, Session, SessionChange, StoredMessage, Turn, new_session_id

from . import sqlite_records as records_table
from . import sqlite_sessions as sessions_table
from .settings import SessionsSettings
from .sqlite_database import Database, DatabaseOptions
from .sqlite_limits import OwnerLimits, within_limits

Result = TypeVar("Result")

EXPIRY_BATCH = 200
"""Sessions that are forgotten in one transaction, so that nobody waits long for it."""

_DAY_SECONDS = 86400.0
FREED_PAGES = 4096
"""Free pages that the file is shortened by in one transaction."""


class SqliteStore:
    """A :class:`~localllm.SessionStore` in one SQLite database.

    What has returned is on the disk: each commit is synced, and commits that wait for the disk share one. A caller who
    is cancelled leaves its turn whole or not there. ``clock`` gives seconds since 1970. ``expire_days`` 0: never.
    """

    def __init__(
        self,
        database: Database,
        *,
        limits: OwnerLimits | None = None,
        expire_days: float = 0,
        clock: Callable[[], float] = time.time,
        logger: logging.Logger | None = None,
    ) -> None:
        self._database = database
        self._logger = logger or logging.getLogger(__name__)
        self._limits = limits or OwnerLimits()
        self._expire_seconds = expire_days * _DAY_SECONDS
        self._clock = clock

    @asynccontextmanager
    async def opened(self, *, check_seconds: float | None = 3600.0) -> AsyncIterator[None]:
        """Keep the database open, and forget what has expired: at once, and then every so often (None: never).

        Raises ``StoreStartError`` for a file that can't be used, or that another server has.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._database.open)
        expiring = [] if check_seconds is None else [asyncio.create_task(self._expire_regularly(check_seconds))]
        try:
            yield
        finally:
            for task in expiring:
                task.cancel()
            await asyncio.gather(*expiring, return_exceptions=True)
            await asyncio.shield(loop.run_in_executor(None, self._database.close))

    async def create(
        self,
        owner: str,
        *,
        model: str | None = None,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        turns: Sequence[Turn] = (),
        session_id: str | None = None,
    ) -> Session:
        """Begin a session, with what was said before if any was."""
        new = sessions_table.NewSession(
            owner, session_id or new_session_id(), model, title, metadata or {}, tuple(turns)
        )

        def work(connection: sqlite3.Connection) -> Session:
            with within_limits(connection, owner, self._limits):
                return sessions_table.create_session(connection, new, self._clock())

        return await self._write(work)

    async def get(self, owner: str, session_id: str) -> Session:
        """Return a session."""
        return await self._read(lambda connection: sessions_table.get_session(connection, owner, session_id))

    async def list(self, owner: str, *, limit: int, after: str | None = None) -> Sequence[Session]:
        """Return the sessions that were used last."""
        return await self._read(lambda connection: sessions_table.list_sessions(connection, owner, limit, after))

    async def change(self, owner: str, session_id: str, change: SessionChange) -> Session:
        """Change title and metadata."""

        def work(connection: sqlite3.Connection) -> Session:
            with within_limits(connection, owner, self._limits):
                return sessions_table.change_session(connection, owner, session_id, change)

        return await self._write(work)

    async def delete(self, owner: str, session_id: str) -> None:
        """Forget a session with all its messages; they are overwritten in the file."""
        await self._write(lambda connection: sessions_table.delete_session(connection, owner, session_id))

    async def messages(self, owner: str, session_id: str, *, limit: int, start: int = 0) -> Sequence[StoredMessage]:
        """Return messages in order."""
        return await self._read(
            lambda connection: sessions_table.read_messages(connection, owner, session_id, limit=limit, start=start)
        )

    async def recent(
        self, owner: str, session_id: str, *, max_bytes: int, max_messages: int | None = None
    ) -> Sequence[StoredMessage]:
        """Return the last whole turns that fit, behind the instructions that the session begins with."""
        return await self._read(
            lambda connection: sessions_table.read_recent(connection, owner, session_id, max_bytes, max_messages)
        )

    async def append(self, owner: str, session_id: str, turn: Turn, *, after: int) -> Session:
        """Append one turn behind the first ``after`` messages."""

        def work(connection: sqlite3.Connection) -> Session:
            with within_limits(connection, owner, self._limits):
                return sessions_table.append_turn(connection, owner, session_id, turn, after=after, now=self._clock())

        return await self._write(work)

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        """Keep records, all or none."""

        def work(connection: sqlite3.Connection) -> None:
            with within_limits(connection, owner, self._limits):
                records_table.put_records(connection, owner, records, self._clock())

        await self._write(work)

    async def get_record(self, owner: str, kind: str, record_id: str) -> Record | None:
        """Return a record, or None."""
        return await self._read(lambda connection: records_table.get_record(connection, owner, kind, record_id))

    async def list_records(
        self, owner: str, kind: str, *, group: str, limit: int, after: int | None = None, newest_first: bool = False
    ) -> Sequence[Record]:
        """Return a group's records in the order of their positions."""
        return await self._read(
            lambda connection: records_table.list_records(
                connection, owner, kind, group=group, limit=limit, after=after, newest_first=newest_first
            )
        )

    async def delete_record(self, owner: str, kind: str, record_id: str) -> bool:
        """Forget a record, and all records whose group it is."""
        return await self._write(lambda connection: records_table.delete_record(connection, owner, kind, record_id))

    async def expire(self) -> int:
        """Forget what nobody has added to for ``expire_days``; return how many sessions and records went."""
        if not self._expire_seconds:
            return 0
        before = self._clock() - self._expire_seconds
        n_gone = 0
        while n := await self._write(lambda connection: records_table.forget_unused(connection, before, EXPIRY_BATCH)):
            n_gone += n
        while n_gone and await self._write(_free_pages):  # give the disk back what they took
            pass
        return n_gone

    async def _expire_regularly(self, seconds: float) -> None:
        while True:
            try:
                n_gone = await self.expire()
            except LocalLLMError as error:
                self._logger.warning("what has expired can't be forgotten now: %s", error.message)
            else:
                if n_gone:
                    self._logger.info("forgot %d sessions and records that had expired", n_gone)
            await asyncio.sleep(seconds)

    async def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.wrap_future(self._database.write(work))

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.wrap_future(self._database.read(work))


def _free_pages(connection: sqlite3.Connection) -> int:
    """Shorten the file by some of the pages that are free; return how many are left."""
    connection.execute(f"PRAGMA incremental_vacuum({FREED_PAGES})").fetchall()
    [n_left] = connection.execute("PRAGMA freelist_count").fetchone()
    return int(n_left)


def database_path(context: PluginContext) -> Path:
    """Return where the database lies, or will: the real place, since SQLite's other files lie beside that."""
    settings: SessionsSettings = context.config
    return (settings.path or context.data_dir / "sessions.db").resolve()


def make_store(context: PluginContext) -> SqliteStore:
    """Return the store that ``[plugin.sessions]`` describes, not open yet."""
    settings: SessionsSettings = context.config
    options = DatabaseOptions(
        path=database_path(context),
        busy_seconds=settings.busy_timeout_seconds,
        max_bytes=settings.max_bytes,
    )
    return SqliteStore(
        Database(options, context.logger),
        limits=OwnerLimits(settings.max_sessions_per_owner, settings.max_bytes_per_owner),
        expire_days=settings.expire_days,
        logger=context.logger,
    )
