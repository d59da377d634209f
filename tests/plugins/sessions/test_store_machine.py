"""Whatever is asked of it, in whatever order, the SQLite store answers as the one in memory does; closing it too."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Usage
from localllm.contract.sessions import Record, SessionChange, Turn, new_session_id
from localllm.testing import MemoryStore, StoreLimits
from localllm_sessions.sqlite_limits import OwnerLimits
from tests.conftest import FULL
from tests.plugins.sessions.store_kit import make

MAX_SESSIONS, MAX_BYTES = 4, 4000

owners = st.sampled_from(["", "a", "b"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=2)
message_texts = st.text(max_size=20) | st.just("long " * 80)
messages = st.builds(
    lambda role, content, more: {**more, "role": role, "content": content},
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    message_texts,
    objects,
)
counts = st.integers(0, 1000)
turns = st.builds(
    Turn,
    messages=st.lists(messages, max_size=4).map(tuple),
    model=st.none() | st.sampled_from(["m", "n"]),
    usage=st.builds(Usage, counts, counts, counts, counts),
    context_tokens=counts,
    state=st.none() | objects,
)
kinds, record_ids, positions = st.sampled_from("xy"), st.sampled_from(["", "1", "2", "3"]), st.integers(-3, 3)
records = st.builds(
    Record, kind=kinds, id=record_ids, body=objects, created_at=st.floats(0, 1e9), group=record_ids, position=positions
)


class StoreMachine(RuleBasedStateMachine):
    """Two stores that are asked the same."""

    sessions: Bundle[str] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="localllm-sessions-"))
        self.now = 1000.0
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.model = MemoryStore(StoreLimits(MAX_SESSIONS, MAX_BYTES), clock=lambda: self.now)
        self.runner.run(self.open())

    async def open(self) -> None:
        self.store = make(
            self.folder / "sessions.db", limits=OwnerLimits(MAX_SESSIONS, MAX_BYTES), clock=lambda: self.now
        )
        await self.stack.enter_async_context(self.store.opened())

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def both(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Ask both, and return the one answer."""

        async def ask(store: Any) -> Any:
            try:
                found = await getattr(store, verb)(*arguments, **options)
            except LocalLLMError as error:
                return error.to_wire()
            return list(found) if verb in {"list", "messages", "recent", "list_records"} else found

        expected, found = self.runner.run(ask(self.model)), self.runner.run(ask(self.store))
        assert found == expected
        return found

    @initialize(target=sessions)
    def no_session(self) -> str:
        return new_session_id()

    @rule(
        target=sessions,
        owner=owners,
        title=message_texts,
        metadata=st.none() | objects,
        turns=st.lists(turns, max_size=2),
    )
    def create(self, owner: str, title: str, metadata: Mapping[str, Any] | None, turns: list[Turn]) -> str:
        session_id = new_session_id()
        self.both("create", owner, title=title, metadata=metadata, turns=turns, session_id=session_id)
        return session_id

    @rule(owner=owners, session_id=sessions)
    def create_again(self, owner: str, session_id: str) -> None:
        self.both("create", owner, session_id=session_id)

    @rule(owner=owners, session_id=sessions, turn=turns, shift=st.sampled_from([0, 0, 0, 0, 1, -1]))
    def append(self, owner: str, session_id: str, turn: Turn, shift: int) -> None:
        found = self.both("get", owner, session_id)
        after = shift if isinstance(found, dict) else found.n_messages + shift
        self.both("append", owner, session_id, turn, after=after)

    @rule(owner=owners, session_id=sessions, title=st.none() | message_texts, metadata=st.none() | objects)
    def change(self, owner: str, session_id: str, title: str | None, metadata: Mapping[str, Any] | None) -> None:
        self.both("change", owner, session_id, SessionChange(title, metadata))

    @rule(owner=owners, session_id=sessions)
    def delete(self, owner: str, session_id: str) -> None:
        self.both("delete", owner, session_id)

    @rule(owner=owners, session_id=sessions, start=st.integers(0, 8), limit=st.integers(0, 5))
    def read(self, owner: str, session_id: str, start: int, limit: int) -> None:
        self.both("messages", owner, session_id, start=start, limit=limit)

    @rule(owner=owners, session_id=sessions, max_bytes=st.integers(0, 1500), max_messages=st.none() | st.integers(0, 9))
    def recent(self, owner: str, session_id: str, max_bytes: int, max_messages: int | None) -> None:
        self.both("recent", owner, session_id, max_bytes=max_bytes, max_messages=max_messages)

    @rule(owner=owners, after=st.none() | sessions, limit=st.integers(0, 5))
    def page(self, owner: str, after: str | None, limit: int) -> None:
        self.both("list", owner, after=after, limit=limit)

    @rule(owner=owners, kept=st.lists(records, max_size=4))
    def put_records(self, owner: str, kept: list[Record]) -> None:
        self.both("put_records", owner, kept)

    @rule(owner=owners, kind=kinds, record_id=record_ids)
    def get_record(self, owner: str, kind: str, record_id: str) -> None:
        self.both("get_record", owner, kind, record_id)

    @rule(
        owner=owners,
        kind=kinds,
        group=record_ids,
        limit=st.integers(0, 4),
        after=st.none() | positions,
        back=st.booleans(),
    )
    def list_records(self, owner: str, kind: str, group: str, limit: int, after: int | None, back: bool) -> None:
        self.both("list_records", owner, kind, group=group, limit=limit, after=after, newest_first=back)

    @rule(owner=owners, kind=kinds, record_id=record_ids)
    def delete_record(self, owner: str, kind: str, record_id: str) -> None:
        self.both("delete_record", owner, kind, record_id)

    @rule(seconds=st.floats(0.5, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start_again(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.run(self.open())

    @invariant()
    def sums_are_right(self) -> None:
        connection = sqlite3.connect(self.folder / "sessions.db")
        try:
            summed = connection.execute(
                "SELECT owner, sum(one), sum(n_bytes) FROM (SELECT owner, 1 AS one, n_bytes FROM sessions "
                "UNION ALL SELECT owner, 0, n_bytes FROM records) GROUP BY owner ORDER BY owner"
            ).fetchall()
            assert connection.execute("SELECT * FROM owners ORDER BY owner").fetchall() == summed
            wrong = "SELECT id FROM sessions WHERE n_message_bytes != (SELECT coalesce(sum(n_bytes), 0) FROM messages "
            assert not connection.execute(wrong + "WHERE messages.session_id = sessions.id)").fetchall()
        finally:
            connection.close()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=300 if FULL else 25, stateful_step_count=30)
