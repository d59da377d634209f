"""Files that are locked, gone, replaced, read-only, damaged, somebody else's, of another version: never guessed at."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from localllm.contract.sessions import Session, SessionStoreUnavailableError
from localllm.testing.store_kit import exchange
from localllm_sessions.sqlite_connection import open_writer
from localllm_sessions.sqlite_faults import StoreStartError
from localllm_sessions.sqlite_schema import APPLICATION_ID, MIGRATIONS
from tests.conftest import FULL
from tests.plugins.sessions.store_kit import make, opened


@contextmanager
def other_program(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody with a shell and SQLite."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def write_some(path: Path, n_turns: int = 3) -> Session:
    """Leave a sound file with one session behind."""

    async def run() -> Session:
        async with opened(path) as store:
            return await store.create("me", turns=[exchange(number) for number in range(n_turns)])

    return asyncio.run(run())


async def refused(path: Path) -> str:
    """Return why a store of this file doesn't open."""
    with pytest.raises(StoreStartError) as caught:
        async with make(path).opened():
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions.db"


def test_files_are_their_owners_alone(path: Path) -> None:
    async def run() -> None:
        async with opened(path) as store:
            await store.create("me")
            for file in path.parent.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert {file.name for file in path.parent.iterdir()} == {
                f"sessions.db{ending}" for ending in ("", "-wal", "-shm", ".lock")
            }

    before = os.umask(0)
    try:
        asyncio.run(run())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    write_some(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_server_is_refused_and_the_first_unharmed(path: Path) -> None:
    async def run() -> None:
        async with opened(path) as store:
            session = await store.create("me")
            assert "another server already keeps its conversations in" in await refused(path)
            await store.append("me", session.id, exchange(0), after=0)
        async with opened(path) as store:
            assert (await store.get("me", session.id)).n_messages == 2

    asyncio.run(run())


def test_reads_go_on_while_another_program_holds_the_lock_and_writes_are_refused_after_a_while(path: Path) -> None:
    async def run() -> None:
        async with opened(path, busy_seconds=0.05) as store:
            session = await store.create("me", turns=[exchange(0)])
            with other_program(path) as other:
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(SessionStoreUnavailableError, match="holds the store of conversations locked"):
                    await store.append("me", session.id, exchange(1), after=2)
                assert await store.get("me", session.id) == session
                assert len(await store.recent("me", session.id, max_bytes=1000)) == 2
                other.execute("COMMIT")
            assert (await store.append("me", session.id, exchange(1), after=2)).n_messages == 4

    asyncio.run(run())


def test_the_loop_runs_and_readers_read_while_a_write_waits_for_the_lock(path: Path) -> None:
    async def run() -> None:
        async with opened(path, busy_seconds=30.0) as store:
            session = await store.create("me")
            with other_program(path) as other:
                other.execute("BEGIN IMMEDIATE")
                writing = asyncio.ensure_future(store.append("me", session.id, exchange(0), after=0))
                for _ in range(20):
                    assert await store.get("me", session.id) == session
                assert not writing.done()
                other.execute("ROLLBACK")
            assert (await writing).n_messages == 2

    asyncio.run(run())


@pytest.mark.parametrize("ending", ["", "-wal"])
def test_a_file_that_is_deleted_is_noticed_and_no_other_one_made(path: Path, ending: str) -> None:
    async def run() -> None:
        async with opened(path) as store:
            session = await store.create("me", turns=[exchange(0)])
            victim = path.with_name(path.name + ending)
            aside = path.with_name("aside")
            victim.rename(aside)
            for work in (store.get("me", session.id), store.append("me", session.id, exchange(1), after=2)):
                with pytest.raises(SessionStoreUnavailableError, match=f"is gone \\({re.escape(victim.name)}\\)"):
                    await work
            assert not victim.exists()
            victim.touch()
            with pytest.raises(SessionStoreUnavailableError, match="was replaced"):
                await store.create("me")
            aside.rename(victim)
            assert (await store.append("me", session.id, exchange(1), after=2)).n_messages == 4
        async with opened(path) as store:
            assert (await store.get("me", session.id)).n_messages == 4

    asyncio.run(run())


def test_a_file_that_is_made_read_only_is_read_on(path: Path) -> None:
    async def run() -> None:
        async with opened(path) as store:
            session = await store.create("me")
            set_mode(path, 0o400)
            with pytest.raises(SessionStoreUnavailableError, match="was made read-only"):
                await store.append("me", session.id, exchange(0), after=0)
            assert await store.get("me", session.id) == session
            set_mode(path, 0o600)
            await store.append("me", session.id, exchange(0), after=0)

    asyncio.run(run())
    path.chmod(0o400)
    assert "is read-only; make it writable: chmod 600" in asyncio.run(refused(path))


def test_a_lost_file_with_its_log_left_is_not_replaced_by_an_empty_one(path: Path) -> None:
    write_some(path)
    path.unlink()
    log = path.with_name("sessions.db-wal")
    log.write_bytes(b"what was not yet in the file")
    assert "is gone, but its log sessions.db-wal is still there" in asyncio.run(refused(path))
    assert not path.exists()
    assert log.read_bytes() == b"what was not yet in the file"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"This is not a database. " * 100, "is damaged (file is not a database)"),
        (b"SQLite format 3\x00" * 9, "is damaged"),
    ],
)
def test_what_is_no_database_is_left_alone(path: Path, content: bytes, sentence: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    message = asyncio.run(refused(path))
    assert sentence in message
    assert f"sqlite3 '{path}' .recover > '{path}.sql' && sqlite3 '{path}.recovered' < '{path}.sql'" in message
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with other_program(path) as other:
        other.execute("CREATE TABLE precious (it TEXT)")
    content = path.read_bytes()
    assert "is the database of another program" in asyncio.run(refused(path))
    assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    assert "is not a file" in asyncio.run(refused(path))


@pytest.mark.parametrize("part", range(4))
def test_flipped_bits_are_refused_or_do_no_harm(path: Path, part: int) -> None:
    """Whatever is damaged, the server doesn't start, or answers 503, or the messages are what they were."""
    session = write_some(path, 200)
    sound = path.read_bytes()
    random = Random(part)
    outcomes = []
    for _ in range(500 if FULL else 50):
        damaged = bytearray(sound)
        for _ in range(random.choice([1, 1, 8])):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        outcomes.append(asyncio.run(_use(path, session)))
        if outcomes[-1] == "refused":
            assert path.read_bytes() == damaged, "what is refused is left as it is"
        for file in (path.with_name("sessions.db-wal"), path.with_name("sessions.db-shm")):
            file.unlink(missing_ok=True)
    assert {"refused", "whole"} <= set(outcomes)


@pytest.mark.parametrize("n_messages", [0, -1, 1, 3, 5, 2**40])
def test_a_session_that_miscounts_its_messages_hides_none_and_takes_none(path: Path, n_messages: int) -> None:
    async def run() -> None:
        async with opened(path) as store:
            session = await store.create("me", turns=[exchange(0), exchange(1)])
            with other_program(path) as other:
                other.execute("UPDATE sessions SET n_messages = ?", (n_messages,))
            for using in (
                store.messages("me", session.id, limit=10),
                store.recent("me", session.id, max_bytes=10**6),
                store.append("me", session.id, exchange(2), after=n_messages),
            ):
                with pytest.raises(SessionStoreUnavailableError, match="is damaged"):
                    await using
            with other_program(path) as other:
                other.execute("UPDATE sessions SET n_messages = 4")
            assert len(await store.messages("me", session.id, limit=10)) == 4

    asyncio.run(run())


async def _use(path: Path, session: Session) -> str:
    try:
        async with opened(path) as store:
            kept = await store.messages(session.owner, session.id, limit=1000)
            expected = [message for number in range(200) for message in exchange(number).messages]
            assert [(one.index, one.turn, one.message) for one in kept] == [
                (index, index // 2, message) for index, message in enumerate(expected)
            ]
    except StoreStartError as error:
        assert re.search("Nothing was changed|another program|newer server|the file is damaged", str(error))
        return "refused"
    except SessionStoreUnavailableError as error:
        assert "damaged" in error.message
        return "unavailable"
    return "whole"


def test_what_is_damaged_while_the_server_runs_is_not_handed_out(path: Path) -> None:
    async def run() -> None:
        async with opened(path) as store:
            session = await store.create("me", turns=[exchange(0), exchange(1)])
            other_session = await store.create("me", turns=[exchange(0)])
            with other_program(path) as other:
                other.execute(
                    "UPDATE messages SET body = replace(body, '0', '7') WHERE session_id = ? AND number = 0",
                    (session.id,),
                )
            with pytest.raises(SessionStoreUnavailableError, match="is damaged") as caught:
                await store.messages("me", session.id, limit=10)
            assert caught.value.detail == {"retry_after_seconds": 60}
            assert len(await store.messages("me", session.id, limit=10, start=2)) == 2
            assert len(await store.messages("me", other_session.id, limit=10)) == 2
            with other_program(path) as other:
                other.execute("DELETE FROM messages WHERE number = 1")
            with pytest.raises(SessionStoreUnavailableError, match="is damaged"):
                await store.recent("me", other_session.id, max_bytes=1000)

    asyncio.run(run())


# --- versions --------------------------------------------------------------------------------------------------------


def add_colour(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE sessions ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'")


def add_shade(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE sessions ADD COLUMN shade TEXT")


def fail(connection: sqlite3.Connection) -> None:
    add_shade(connection)
    raise sqlite3.OperationalError("no")


def version_of(path: Path) -> tuple[int, set[str]]:
    with other_program(path) as other:
        [version] = other.execute("PRAGMA user_version").fetchone()
        return version, {row[1] for row in other.execute("PRAGMA table_info(sessions)")}


def test_an_older_version_is_brought_up_to_date_and_keeps_what_it_has(path: Path) -> None:
    session = write_some(path)
    assert version_of(path)[0] == len(MIGRATIONS)

    async def run() -> None:
        async with opened(path, migrations=(*MIGRATIONS, add_colour, add_shade)) as store:
            assert await store.get("me", session.id) == session
            assert len(await store.messages("me", session.id, limit=10)) == 6
            await store.append("me", session.id, exchange(3), after=6)

    asyncio.run(run())
    version, columns = version_of(path)
    assert version == len(MIGRATIONS) + 2
    assert {"colour", "shade"} <= columns


def test_a_migration_that_fails_leaves_the_older_version(path: Path) -> None:
    write_some(path)
    before = version_of(path)
    with pytest.raises(StoreStartError, match=r"is damaged \(no\)"):
        open_writer(path, busy_seconds=1, migrations=(*MIGRATIONS, add_colour, fail))
    assert version_of(path) == before
    write_some(path)


def test_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    write_some(path)
    with other_program(path) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    content = path.read_bytes()
    message = asyncio.run(refused(path))
    assert "was written by a newer server" in message
    assert f"its tables have version {len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)}" in message
    assert path.read_bytes() == content


def test_the_file_says_whose_it_is(path: Path) -> None:
    write_some(path)
    with other_program(path) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
