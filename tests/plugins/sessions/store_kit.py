"""Opens stores in a folder, for the tests of the SQLite store."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from localllm_sessions.sqlite_database import Database, DatabaseOptions
from localllm_sessions.sqlite_limits import OwnerLimits
from localllm_sessions.sqlite_schema import MIGRATIONS, Migration
from localllm_sessions.sqlite_store import SqliteStore

LOGGER = logging.getLogger("localllm.plugin.sessions")


def make(
    path: Path,
    *,
    busy_seconds: float = 5.0,
    max_bytes: int = 0,
    limits: OwnerLimits | None = None,
    expire_days: float = 0,
    clock: Callable[[], float] = lambda: 1_000_000.0,
    migrations: Sequence[Migration] = MIGRATIONS,
) -> SqliteStore:
    """Return a store that is not open yet."""
    options = DatabaseOptions(path, busy_seconds, max_bytes, migrations)
    return SqliteStore(Database(options, LOGGER), limits=limits, expire_days=expire_days, clock=clock, logger=LOGGER)


@asynccontextmanager
async def opened(path: Path, **settings: object) -> AsyncIterator[SqliteStore]:
    """Keep a store open that forgets nothing by itself."""
    store = make(path, **settings)  # type: ignore[arg-type]
    async with store.opened(check_seconds=None):
        yield store
