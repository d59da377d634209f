"""The SQLite store does what every store does, and keeps it in a file that is its owner's alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from localllm import Turn, Usage
from localllm.testing import StoreLimits
from localllm.testing.store_contract import CHECKS
from localllm.testing.store_kit import Check
from localllm_sessions.sqlite_connection import open_writer
from localllm_sessions.sqlite_limits import OwnerLimits
from localllm_sessions.sqlite_sessions import NewSession, append_turn, create_session, read_messages
from tests.plugins.sessions.store_kit import opened

LIMITS = StoreLimits(max_sessions_per_owner=12, max_bytes_per_owner=30_000)


@pytest.mark.parametrize("limits", [StoreLimits(), LIMITS], ids=["unlimited", "limited"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_store_contract(check: Check, limits: StoreLimits, tmp_path: Path) -> None:
    async def run() -> None:
        own = OwnerLimits(limits.max_sessions_per_owner or 0, limits.max_bytes_per_owner or 0)
        async with opened(tmp_path / "sessions.db", limits=own) as store:
            await check(store, limits)

    asyncio.run(run())


def test_a_session_that_begins_with_many_turns_is_as_if_they_had_come_one_by_one_and_is_written_once(
    tmp_path: Path,
) -> None:
    """An import of thousands of turns must not keep the thread that writes from everybody else's."""
    path = tmp_path / "sessions.db"
    path.touch(mode=0o600)
    turns = (
        Turn(({"role": "system", "content": "Be kind."},)),
        Turn(({"role": "developer", "content": "And short."}, {"role": "user", "content": "é"}), title="first"),
        Turn((), usage=Usage(1, 2, 3, 4), context_tokens=5),
        *(Turn(({"role": "user", "content": str(number)},), "model", Usage(1, 1), number) for number in range(50)),
        Turn(({"role": "user", "content": "last"},), state={"start": 2}, title="second"),
    )
    connection = open_writer(path, busy_seconds=1)
    try:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        at_once = create_session(connection, NewSession("me", "at-once", None, "", {"a": 1}, turns), 1.0)
        # Python tells a statement again for each of its triggers.
        assert len({one for one in statements if one.startswith("UPDATE sessions")}) == 1
        step = create_session(connection, NewSession("me", "one-by-one", None, "", {"a": 1}, ()), 1.0)
        for turn in turns:
            step = append_turn(connection, "me", step.id, turn, after=step.n_messages, now=1.0)
        assert replace(step, id="at-once") == at_once
        [first, second] = [read_messages(connection, "me", one.id, limit=99, start=0) for one in (at_once, step)]
        assert first == second
        own = "n_turns, n_leading, n_message_bytes, n_bytes"
        rows = connection.execute(f"SELECT {own} FROM sessions").fetchall()
        assert rows[0] == rows[1]
        assert rows[0][:2] == (53, 2)
    finally:
        connection.close()
