"""Processes that die while they write conversations: what was acknowledged is there, and nothing by halves."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from localllm.contract.sessions import SessionNotFoundError
from localllm_sessions.sqlite_faults import StoreStartError
from localllm_sessions.sqlite_schema import MIGRATIONS
from tests.conftest import FULL
from tests.process.session_writer import N_SESSIONS, SESSION_IDS, open_store, turn

ROOT = Path(__file__).parents[2]
N_KILLS = 200 if FULL else 16

pytestmark = pytest.mark.process


@contextmanager
def writer(what: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process write, and kill it in the end."""
    command = [sys.executable, "-m", "tests.process.session_writer", what, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield what the process says, without reading ahead."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line.decode().rstrip("\n")


def count_turns(path: Path) -> list[int]:
    """Return how many turns each session has, all of them whole and as they were written."""

    async def run() -> list[int]:
        store = open_store(path)
        async with store.opened(check_seconds=None):  # which looks through the whole file first
            found = []
            for session, session_id in enumerate(SESSION_IDS):
                try:
                    kept = await store.messages("me", session_id, limit=1_000_000)
                except SessionNotFoundError:
                    kept = []
                assert len(kept) % 2 == 0
                expected = [message for number in range(len(kept) // 2) for message in turn(session, number).messages]
                assert [one.message for one in kept] == expected
                found.append(len(kept) // 2)
            return found

    return asyncio.run(run())


@pytest.mark.parametrize("part", range(4))
def test_a_writer_that_is_killed_loses_no_acknowledged_turn(part: int, tmp_path: Path) -> None:
    random, path = Random(part), tmp_path / "sessions.db"
    acknowledged = [0] * N_SESSIONS
    for _ in range(N_KILLS // 4):
        with writer("turns", path) as process:
            n_heard = random.randrange(1, 80)
            for count, line in enumerate(lines(process), 1):
                session, number = map(int, line.split())
                acknowledged[session] = max(acknowledged[session], number + 1)
                if count == n_heard:
                    process.kill()  # what it says before it is gone counts too
        if random.random() < 0.5:  # else the next writer finds what the kill left
            assert all(there >= told for there, told in zip(count_turns(path), acknowledged, strict=True))
    assert all(there >= told for there, told in zip(count_turns(path), acknowledged, strict=True))
    assert sum(acknowledged) > N_KILLS // 4


def test_a_server_that_is_killed_lets_go_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with writer("turns", path) as process:
        next(lines(process))
        with pytest.raises(StoreStartError, match="another server already keeps its conversations"):
            count_turns(path)
        next(lines(process))  # the first is unharmed
    assert sum(count_turns(path)) >= 2


def columns(path: Path) -> tuple[int, bool]:
    connection = sqlite3.connect(path)
    try:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        return version, "colour" in {row[1] for row in connection.execute("PRAGMA table_info(sessions)")}
    finally:
        connection.close()


@pytest.mark.parametrize("where", ["inside", "after"])
def test_a_migration_that_is_killed_happened_or_did_not(where: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with writer("turns", path) as process:
        next(lines(process))
    before = count_turns(path)
    with writer("migrate", path) as process:
        said = lines(process)
        assert next(said) == "inside"
        if where == "after":
            assert process.stdin is not None
            process.stdin.write(b"go on\n")
            process.stdin.flush()
            assert next(said).startswith("after")
    if where == "after":
        assert columns(path) == (len(MIGRATIONS) + 1, True)
        with pytest.raises(StoreStartError, match="newer server"):
            count_turns(path)
    else:
        assert count_turns(path) == before
        assert columns(path) == (len(MIGRATIONS), False)
