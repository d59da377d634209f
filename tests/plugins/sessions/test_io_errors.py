"""Disks that fail: what could not be synced is not acknowledged, does not come back, and the store goes on after."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from localllm.contract.sessions import SessionStoreUnavailableError
from localllm.testing.store_kit import exchange
from tests.plugins.sessions.faulty_vfs import IOERR_FSYNC, IOERR_WRITE, OK, Operation, watched
from tests.plugins.sessions.store_kit import opened


class Disk:
    """Fails all operations of one kind on one file while it is told to."""

    def __init__(self, kind: str, ending: str, code: int) -> None:
        self.is_failing = False
        self.n_failures = 0
        self.n_opened = 0
        self._kind, self._ending, self._code = kind, ending, code

    def __call__(self, operation: Operation) -> int:
        self.n_opened += operation.kind == "open" and operation.path.name == "sessions.db"
        if not self.is_failing or operation.kind != self._kind or not operation.path.name.endswith(self._ending):
            return OK
        self.n_failures += 1
        return self._code


@pytest.mark.parametrize(
    ("kind", "ending", "code"),
    [("sync", "-wal", IOERR_FSYNC), ("write", "-wal", IOERR_WRITE)],
    ids=["fsync", "write"],
)
def test_what_could_not_be_written_is_not_acknowledged(kind: str, ending: str, code: int, tmp_path: Path) -> None:
    disk = Disk(kind, ending, code)

    async def run() -> None:
        async with opened(tmp_path / "sessions.db") as store:
            session = await store.create("me", turns=[exchange(0)])
            n_opened = disk.n_opened
            disk.is_failing = True
            for _ in range(3):
                with pytest.raises(SessionStoreUnavailableError, match="could not be read or written"):
                    await store.append("me", session.id, exchange(1), after=2)
                assert await store.get("me", session.id) == session
            assert disk.n_failures == 3
            disk.is_failing = False
            again = await store.append("me", session.id, exchange(2), after=2)
            assert again.n_messages == 4
            assert disk.n_opened - n_opened == 3, "after each failure another connection"
        async with opened(tmp_path / "sessions.db") as store:
            kept = await store.messages("me", session.id, limit=10)
            assert [one.message for one in kept] == [*exchange(0).messages, *exchange(2).messages]

    with watched(disk):
        asyncio.run(run())
    connection = sqlite3.connect(tmp_path / "sessions.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_checkpoint_that_fails_loses_nothing(tmp_path: Path) -> None:
    """Writing into the file itself fails, for a while: the log keeps everything, even over the end of the process."""
    disk = Disk("write", ".db", IOERR_WRITE)

    async def run() -> int:
        async with opened(tmp_path / "sessions.db") as store:
            session = await store.create("me")
            disk.is_failing = True
            number = 0
            while disk.n_failures < 3:  # SQLite brings a log of 1000 pages into the file
                await store.append("me", session.id, exchange(number), after=2 * number)
                number += 1
        disk.is_failing = False
        async with opened(tmp_path / "sessions.db") as store:
            [session] = await store.list("me", limit=5)
            assert session.n_messages == 2 * number
            assert len(await store.messages("me", session.id, limit=10_000)) == 2 * number
        return number

    with watched(disk):
        assert asyncio.run(run()) > 0
