"""Many at once: commits that share a sync, callers that are cancelled, expiry, huge sessions."""

from __future__ import annotations

import ast
import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import localllm_sessions
from localllm.contract.sessions import (
    Record,
    Session,
    SessionConflictError,
    SessionNotFoundError,
    SessionStoreUnavailableError,
    Turn,
)
from localllm.testing.store_kit import exchange, turn_of
from localllm_sessions import sqlite_sessions, sqlite_store
from localllm_sessions.sqlite_store import SqliteStore
from localllm_sessions.writer import Job, JobThread, Outcome
from tests.plugins.sessions.faulty_vfs import OK, Operation, watched
from tests.plugins.sessions.store_kit import LOGGER, make, opened


class Gate:
    """Holds the thread that writes when it next syncs the log, and counts how often it did."""

    def __init__(self) -> None:
        self.is_closed = False
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.n_syncs = 0

    def __call__(self, operation: Operation) -> int:
        if operation.kind == "sync" and operation.path.name.endswith("-wal"):
            self.n_syncs += 1
            if self.is_closed:
                self.is_closed = False
                self.reached.set()
                self.opened.wait()
        return OK


async def hold(gate: Gate, store: SqliteStore) -> asyncio.Task[Session]:
    """Begin a write and return when it is on its way to the disk."""
    gate.is_closed = True
    writing = asyncio.create_task(store.create("somebody"))
    await asyncio.to_thread(gate.reached.wait)
    return writing


def test_writes_that_wait_for_the_disk_share_one_sync_and_none_is_told_before(tmp_path: Path) -> None:
    gate = Gate()

    async def run() -> None:
        async with opened(tmp_path / "sessions.db") as store:
            sessions = [await store.create("me") for _ in range(10)]
            first = await hold(gate, store)
            writes = [asyncio.create_task(store.append("me", one.id, exchange(0), after=0)) for one in sessions]
            refused = asyncio.create_task(store.append("me", sessions[0].id, exchange(1), after=7))
            assert [one.n_messages for one in await store.list("me", limit=20)] == [0] * 10
            assert not any(write.done() for write in writes)
            before = gate.n_syncs
            gate.opened.set()
            await first
            assert [(await write).n_messages for write in writes] == [2] * 10
            with pytest.raises(SessionConflictError):
                await refused
            assert gate.n_syncs == before + 1

    with watched(gate):
        asyncio.run(run())


def test_a_caller_that_is_cancelled_leaves_its_turn_whole_or_not_there(tmp_path: Path) -> None:
    gate = Gate()

    async def run() -> None:
        async with opened(tmp_path / "sessions.db") as store:
            session = await store.create("me")
            begun = await hold(gate, store)
            waiting = asyncio.create_task(store.append("me", session.id, exchange(0), after=0))
            await asyncio.sleep(0)
            for task in (begun, waiting):
                task.cancel()
            for task in (begun, waiting):
                with pytest.raises(asyncio.CancelledError):
                    await task
            gate.opened.set()
            assert (await store.append("me", session.id, exchange(1), after=0)).n_messages == 2
            assert len(await store.list("somebody", limit=5)) == 1

    with watched(gate):
        asyncio.run(run())


def test_what_waits_when_the_store_closes_is_written(tmp_path: Path) -> None:
    async def run() -> None:
        store = make(tmp_path / "sessions.db")
        async with store.opened():
            session = await store.create("me")
            writing = asyncio.create_task(store.append("me", session.id, exchange(0), after=0))
            await asyncio.sleep(0)
        assert (await writing).n_messages == 2
        for late in (store.create("me"), store.get("me", session.id)):
            with pytest.raises(SessionStoreUnavailableError, match="is closed"):
                await late
        async with store.opened():
            assert (await store.get("me", session.id)).n_messages == 2
        assert not (tmp_path / "sessions.db-wal").exists()

    asyncio.run(run())


def test_fifty_sessions_of_two_clients_each(tmp_path: Path) -> None:
    """A total order for each session, nothing lost, and nobody hears of locks."""

    async def client(store: SqliteStore, session: Session, name: str, random: Random) -> None:
        after = 0
        for number in range(6):
            while True:
                await asyncio.sleep(random.random() / 1000)
                try:
                    after = (
                        await store.append("me", session.id, turn_of(f"{name}{number}", "ok"), after=after)
                    ).n_messages
                    break
                except SessionConflictError:
                    after = (await store.get("me", session.id)).n_messages

    async def run() -> None:
        random = Random(0)
        async with opened(tmp_path / "sessions.db") as store:
            sessions = [await store.create("me") for _ in range(50)]
            await asyncio.gather(*(client(store, one, name, random) for one in sessions for name in "ab"))
            for one in sessions:
                said = [kept.message["content"] for kept in await store.messages("me", one.id, limit=100)][::2]
                assert [text for text in said if text[0] == "a"] == [f"a{number}" for number in range(6)]
                assert [text for text in said if text[0] == "b"] == [f"b{number}" for number in range(6)]

    asyncio.run(run())


def test_a_faulty_piece_of_work_fails_alone() -> None:
    """Even a mistake in a statement is only its own caller's."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    started, go_on = threading.Event(), threading.Event()

    def run(jobs: list[Job]) -> None:
        for job in jobs:
            try:
                Outcome(job.work(connection)).settle(job)
            except sqlite3.Error as error:
                Outcome(error=error).settle(job)

    def block(_: sqlite3.Connection) -> None:
        started.set()
        go_on.wait()

    thread = JobThread("test", run)
    first = thread.submit(block)
    started.wait()
    cancelled, faulty = thread.submit(lambda one: one.execute("SELECT 1")), thread.submit(lambda one: one.execute("no"))
    assert cancelled.cancel()
    go_on.set()
    assert first.result() is None
    with pytest.raises(sqlite3.OperationalError):
        faulty.result()
    thread.close()
    with pytest.raises(SessionStoreUnavailableError):
        thread.submit(block)
    connection.close()


def test_one_mistake_among_many_writes_costs_only_itself(tmp_path: Path) -> None:
    gate = Gate()

    async def run() -> None:
        async with opened(tmp_path / "sessions.db") as store:
            session = await store.create("me")
            first = await hold(gate, store)
            mistake = asyncio.create_task(store.put_records("me", [Record("kind", None, {}, 0.0)]))  # type: ignore[arg-type]
            good = asyncio.create_task(store.append("me", session.id, exchange(0), after=0))
            unfit = asyncio.create_task(store.append("me", session.id, Turn(({"n": float("nan")},)), after=2))
            await asyncio.sleep(0)
            gate.opened.set()
            await first
            with pytest.raises(sqlite3.IntegrityError):
                await mistake
            assert (await good).n_messages == 2
            with pytest.raises(ValueError, match="not JSON compliant"):
                await unfit
            assert (await store.get("me", session.id)).n_messages == 2

    with watched(gate):
        asyncio.run(run())


# --- expiry ----------------------------------------------------------------------------------------------------------

DAY = 86400.0


def test_what_nobody_added_to_expires(tmp_path: Path) -> None:
    now = [1_000_000_000.0]

    async def run() -> None:
        async with opened(tmp_path / "sessions.db", expire_days=10, clock=lambda: now[0]) as store:
            old, used = await store.create("me", turns=[exchange(0)]), await store.create("me")
            whole, part = Record("r", "whole", {}, 1.0), Record("i", "part", {}, 1.0, "whole")
            await store.put_records("me", [whole, part, Record("r", "old", {}, 1.0), Record("i", "o", {}, 1.0, "old")])
            now[0] += 6 * DAY
            await store.append("me", used.id, exchange(0), after=0)
            await store.put_records("me", [Record("i", "newer", {}, 1.0, "whole")])
            assert await store.expire() == 0
            now[0] += 6 * DAY
            assert await store.expire() == 3
            assert [one.id for one in await store.list("me", limit=5)] == [used.id]
            with pytest.raises(SessionNotFoundError):
                await store.messages("me", old.id, limit=5)
            assert await store.get_record("me", "r", "whole") == whole
            assert await store.get_record("me", "i", "part") == part
            assert await store.get_record("me", "r", "old") is None
            assert await store.get_record("me", "i", "o") is None

    asyncio.run(run())


class Told(logging.Handler):
    """Says when something was logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.event.set()


def test_what_has_expired_goes_when_the_server_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with opened(tmp_path / "sessions.db", clock=lambda: 0.0) as store:
            await store.create("me")
        told = Told()
        LOGGER.addHandler(told)
        try:
            store = make(tmp_path / "sessions.db", expire_days=1, clock=lambda: 2 * DAY)
            async with store.opened():
                await told.event.wait()
                assert list(await store.list("me", limit=5)) == []
        finally:
            LOGGER.removeHandler(told)
        assert told.messages == ["forgot 1 sessions and records that had expired"]

    with caplog.at_level(logging.INFO):
        asyncio.run(run())


def test_nothing_expires_without_a_limit(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "sessions.db", clock=lambda: 0.0) as store:
            await store.create("me")
        async with opened(tmp_path / "sessions.db", clock=lambda: 1e12) as store:
            assert await store.expire() == 0
            assert len(await store.list("me", limit=5)) == 1

    asyncio.run(run())


def test_expiry_gives_the_space_back_and_leaves_no_trace_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "FREED_PAGES", 40)
    now, path = [0.0], tmp_path / "sessions.db"

    async def run(*, expires: bool) -> None:
        async with opened(path, expire_days=1, clock=lambda: now[0]) as store:
            if expires:
                now[0] += 2 * DAY
                assert await store.expire() == 250
                assert await store.expire() == 0
            else:
                for _ in range(250):
                    await store.create("me", turns=[turn_of("my secret " * 500)])

    asyncio.run(run(expires=False))
    before = path.stat().st_size
    assert b"my secret" in path.read_bytes()
    asyncio.run(run(expires=True))
    assert path.stat().st_size < before / 4
    assert b"my secret" not in path.read_bytes()


# --- huge sessions ---------------------------------------------------------------------------------------------------


def n_steps(path: Path, read: Callable[[sqlite3.Connection], object]) -> int:
    """Return how many instructions of its virtual machine SQLite takes: the same on every machine."""
    connection = sqlite3.connect(path, isolation_level=None)
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    try:
        connection.set_progress_handler(count, 1)
        read(connection)
    finally:
        connection.close()
    return counted[0]


def test_reading_a_huge_session_costs_what_is_read_of_it(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    n_huge = 100_000

    async def write() -> tuple[Session, Session]:
        async with opened(path) as store:
            small = await store.create("me", turns=[turn_of("Be brief.", role="system"), *map(exchange, range(20))])
            pair = exchange(0).messages
            batch = [Turn(pair)] * (n_huge // 10)
            huge = await store.create("me", turns=[turn_of("Be brief.", role="system")])
            for number in range(10):
                messages = tuple(message for turn in batch for message in turn.messages)
                await store.append("me", huge.id, Turn(messages), after=1 + number * len(messages))
            for number in range(20):
                await store.append("me", huge.id, exchange(number), after=1 + 2 * n_huge + 2 * number)
            return small, huge

    small, huge = asyncio.run(write())
    reads: list[Callable[[sqlite3.Connection, Session], object]] = [
        lambda connection, one: sqlite_sessions.read_recent(connection, "me", one.id, 1000),
        lambda connection, one: sqlite_sessions.get_session(connection, "me", one.id),
        lambda connection, one: sqlite_sessions.read_messages(
            connection,
            "me",
            one.id,
            limit=10,
            start=sqlite_sessions.get_session(connection, "me", one.id).n_messages - 10,
        ),
        lambda connection, one: sqlite_sessions.list_sessions(connection, "me", 1, None),
    ]
    for read in reads:
        of_small = n_steps(path, lambda connection, read=read: read(connection, small))
        of_huge = n_steps(path, lambda connection, read=read: read(connection, huge))
        assert of_huge <= 1.1 * of_small + 20


# --- rules that the code keeps ---------------------------------------------------------------------------------------

SOURCES = sorted(Path(localllm_sessions.__file__).parent.glob("*.py"))
OPENING = {"open", "open_code", "read_bytes", "read_text", "write_bytes", "touch", "copy", "copy2", "copyfile", "move"}


def test_nothing_opens_the_file_of_the_database_but_sqlite() -> None:
    """Closing any descriptor of the file would drop SQLite's locks (https://www.sqlite.org/howtocorrupt.html, 2.2)."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                opens = isinstance(called, ast.Attribute) and called.attr in OPENING
                if opens or (isinstance(called, ast.Name) and called.id == "open"):
                    found.add(f"{path.name}: {ast.unparse(node)}")
    assert found == {
        "sqlite_file.py: os.open(place, os.O_RDWR | os.O_CREAT, OWNER_ONLY)",  # the lock's own file
        "sqlite_file.py: os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)",  # none is there yet
        "sqlite_file.py: os.open(folder, os.O_RDONLY | os.O_DIRECTORY)",
        "sqlite_backup.py: os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)",  # nobody else has it
    }


def test_every_statement_about_sessions_and_records_names_the_owner() -> None:
    n_statements = 0
    for path in SOURCES:
        if path.name not in {"sqlite_sessions.py", "sqlite_records.py"}:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, (ast.JoinedStr, ast.Constant)) and id(node) not in parts:
                text = ast.unparse(node)
                if any(f"{verb} " in text for verb in ("SELECT", "UPDATE", "DELETE FROM", "INSERT INTO")):
                    n_statements += 1
                    assert "owner" in text or "SELECT 1 FROM sessions WHERE id = ?" in text, text
    assert n_statements > 12
