"""Writes conversations until it is killed: ``session_writer.py turns|migrate FILE``.

``turns``: four sessions grow side by side, and each turn is told on stdout (``SESSION NUMBER``) once it is
acknowledged. ``migrate``: stops inside of a migration, says so, and goes on when stdin says anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from pathlib import Path

from localllm.contract.sessions import SessionNotFoundError, Turn
from localllm_sessions.sqlite_database import Database, DatabaseOptions
from localllm_sessions.sqlite_schema import MIGRATIONS
from localllm_sessions.sqlite_store import SqliteStore

N_SESSIONS = 4
SESSION_IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(N_SESSIONS)]


def turn(session: int, number: int) -> Turn:
    """Return a turn that can be recognised, of some bytes or some pages."""
    text = f"{session}/{number} " + "x" * (100 if number % 3 else 9000)
    return Turn(({"role": "user", "content": text}, {"role": "assistant", "content": f"{session}/{number} heard"}))


def open_store(path: Path, migrations: tuple[object, ...] = MIGRATIONS) -> SqliteStore:
    """Return the store that both sides of the tests use."""
    options = DatabaseOptions(path, migrations=migrations)  # type: ignore[arg-type]
    return SqliteStore(Database(options, logging.getLogger("sessions")))


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def grow(store: SqliteStore, session: int) -> None:
    try:
        n_messages = (await store.get("me", SESSION_IDS[session])).n_messages
    except SessionNotFoundError:
        n_messages = (await store.create("me", session_id=SESSION_IDS[session])).n_messages
    while True:
        number = n_messages // 2
        n_messages = (
            await store.append("me", SESSION_IDS[session], turn(session, number), after=n_messages)
        ).n_messages
        tell(f"{session} {number}")


async def write_turns(path: Path) -> None:
    store = open_store(path)
    async with store.opened(check_seconds=None):
        await asyncio.gather(*(grow(store, session) for session in range(N_SESSIONS)))


def stop_inside(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE sessions ADD COLUMN colour TEXT")
    connection.execute("UPDATE messages SET body = '{}'")
    tell("inside")
    sys.stdin.readline()


def stop_after(path: Path) -> None:
    tell(f"after {path}")
    sys.stdin.readline()


async def migrate(path: Path) -> None:
    async with open_store(path, (*MIGRATIONS, stop_inside)).opened(check_seconds=None):
        await asyncio.to_thread(stop_after, path)


if __name__ == "__main__":
    asyncio.run((write_turns if sys.argv[1] == "turns" else migrate)(Path(sys.argv[2])))
