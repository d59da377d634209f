"""What every session store has to do, as checks that run against an open one: SQLite's, the memory's, a third party's.

Use them from a test::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_store_contract(check):
        asyncio.run(check(store, StoreLimits()))

A check brings owners of its own, so that one store may serve all of them, one after the other. ``StoreLimits`` are
those that the store was configured with, at least 10 sessions and 20,000 bytes; checks of limits that it doesn't have
pass at once. Bytes are those of compact JSON in UTF-8.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable

from localllm.contract.generation import Usage
from localllm.contract.sessions import SessionChange, SessionConflictError, SessionNotFoundError, SessionStore, Turn
from localllm.testing.sessions import StoreLimits, json_bytes
from localllm.testing.store_kit import Check, exchange, expect, new_owner, texts_of, turn_of
from localllm.testing.store_record_contract import LIMIT_CHECKS, RECORD_CHECKS
from localllm.testing.store_state_contract import STATE_CHECKS

ODD_IDS = ("", " ", "\x00", "%", "_", "'; DROP TABLE sessions; --", "\ud800", "é", "x" * 10_000, "../../etc/passwd")


async def check_what_is_created_can_be_read(store: SessionStore, limits: StoreLimits) -> None:
    """All fields of a new session, and the turns that it begins with."""
    owner = new_owner()
    metadata = {"a": [1, 2.5, None, True], "ключ": {"nested": "🙂"}}
    made = await store.create(
        owner, model="m", title="Ein Titel 🙂", metadata=metadata, turns=[exchange(0), exchange(1)]
    )
    assert (made.owner, made.model, made.title, made.metadata) == (owner, "m", "Ein Titel 🙂", metadata)
    assert (made.n_messages, made.usage, made.context_tokens) == (4, Usage(20, 4, 6, 2), 21)
    assert made.created_at <= made.used_at
    assert await store.get(owner, made.id) == made
    assert list(await store.list(owner, limit=5)) == [made]
    kept = await store.messages(owner, made.id, limit=10)
    assert [(one.index, one.turn) for one in kept] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [one.message for one in kept] == [*exchange(0).messages, *exchange(1).messages]
    plain = await store.create(owner)
    assert (plain.model, plain.title, dict(plain.metadata), plain.n_messages) == (None, "", {}, 0)
    assert list(await store.messages(owner, plain.id, limit=10)) == []
    assert list(await store.recent(owner, plain.id, max_bytes=100)) == []


async def check_ids_are_new_every_time(store: SessionStore, limits: StoreLimits) -> None:
    """Ids are UUIDs of random bits, and no two are the same."""
    owner = new_owner()
    ids = {(await store.create(owner)).id for _ in range(8)}
    assert len(ids) == 8
    assert all(uuid.UUID(one).version == 4 and str(uuid.UUID(one)) == one for one in ids)


async def check_turns_are_appended_in_order(store: SessionStore, limits: StoreLimits) -> None:
    """Messages keep their order, turns are counted, usage is summed up, the last model and context count."""
    owner = new_owner()
    session = await store.create(owner, model="first")
    for number in range(5):
        session = await store.append(owner, session.id, exchange(number), after=2 * number)
        assert session.n_messages == 2 * number + 2
    assert (session.model, session.usage, session.context_tokens) == ("m", Usage(50, 10, 15, 5), 24)
    session = await store.append(owner, session.id, turn_of("more"), after=10)
    assert (session.model, session.usage, session.context_tokens) == ("m", Usage(50, 10, 15, 5), 24)
    assert session == await store.get(owner, session.id)
    kept = await store.messages(owner, session.id, limit=100)
    assert [one.index for one in kept] == list(range(11))
    assert [one.turn for one in kept] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert texts_of(kept)[-3:] == ["question 4", "answer 4", "more"]
    assert [one.created_at for one in kept] == sorted(one.created_at for one in kept)


async def check_messages_come_back_as_they_were(store: SessionStore, limits: StoreLimits) -> None:
    """Any plain JSON, whatever was done to the caller's object afterwards."""
    owner = new_owner()
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\ud83d"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "n": [2**53, -0.5, 1e300, False, ""]}
    texts = ("", "\x00\x1f\u2028\u2029", "🙂" * 100, "a\r\nb", '"\\', "\ufeff", "\uffff")
    session = await store.create(owner)
    await store.append(owner, session.id, Turn((message, *turn_of(*texts).messages)), after=0)
    expected = {**message, "tool_calls": [{**call}]}
    message["tool_calls"] = []
    kept = await store.messages(owner, session.id, limit=100)
    assert kept[0].message == expected
    assert texts_of(kept[1:]) == list(texts)


async def check_what_does_not_follow_is_refused(store: SessionStore, limits: StoreLimits) -> None:
    """Whoever counts other messages than there are gets a conflict, and nothing changes."""
    owner = new_owner()
    session = await store.create(owner, turns=[exchange(0)])
    for after in (0, 1, 3, -1, 2**70):
        await expect(SessionConflictError, store.append(owner, session.id, exchange(1), after=after))
    assert await store.get(owner, session.id) == session
    assert len(await store.messages(owner, session.id, limit=10)) == 2


async def check_messages_are_read_in_pages(store: SessionStore, limits: StoreLimits) -> None:
    """``start`` and ``limit``, beyond the end too."""
    owner = new_owner()
    session = await store.create(owner, turns=[turn_of(*map(str, range(10)))])
    for start, limit in ((0, 3), (3, 3), (9, 5), (10, 5), (2**70, 5), (0, 10), (0, 1)):
        page = await store.messages(owner, session.id, limit=limit, start=start)
        assert texts_of(page) == [str(index) for index in range(10)][start : start + limit]
        assert [one.index for one in page] == list(range(start, start + len(page)))


async def check_lists_are_paged_by_last_use(store: SessionStore, limits: StoreLimits) -> None:
    """What was used last comes first; a page goes on behind the last one of the page before."""
    owner = new_owner()
    ids = [(await store.create(owner)).id for _ in range(7)]
    await store.append(owner, ids[2], exchange(0), after=0)
    await store.change(owner, ids[1], SessionChange(title="renaming is no use"))
    expected = [ids[2], *(one for one in reversed(ids) if one != ids[2])]
    found: list[str] = []
    while page := await store.list(owner, limit=3, after=found[-1] if found else None):
        assert len(page) <= 3
        found += [one.id for one in page]
    assert found == expected
    await expect(SessionNotFoundError, store.list(owner, limit=3, after=str(uuid.uuid4())))
    assert list(await store.list(new_owner(), limit=3)) == []


async def check_changes_leave_the_rest(store: SessionStore, limits: StoreLimits) -> None:
    """Title and metadata change, each alone; None leaves them, and empty ones are values."""
    owner = new_owner()
    made = await store.create(owner, title="old", metadata={"a": 1}, turns=[exchange(0)])
    renamed = await store.change(owner, made.id, SessionChange(title="new"))
    assert (renamed.title, renamed.metadata) == ("new", {"a": 1})
    marked = await store.change(owner, made.id, SessionChange(metadata={"b": 2}))
    assert (marked.title, marked.metadata) == ("new", {"b": 2})
    emptied = await store.change(owner, made.id, SessionChange(title="", metadata={}))
    assert (emptied.title, emptied.metadata) == ("", {})
    assert (emptied.n_messages, emptied.usage, emptied.created_at) == (2, made.usage, made.created_at)
    assert await store.change(owner, made.id, SessionChange()) == await store.get(owner, made.id) == emptied


async def check_recent_gives_the_last_whole_turns(store: SessionStore, limits: StoreLimits) -> None:
    """As many whole turns as fit, one at least, behind the instructions that the session begins with."""
    owner = new_owner()
    instructions = ({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."})
    session = await store.create(owner, turns=[Turn(instructions)])
    for number in range(6):
        await store.append(owner, session.id, exchange(number), after=2 + 2 * number)
    one_turn = sum(json_bytes(message) for message in exchange(0).messages)
    everything = await store.messages(owner, session.id, limit=100)
    for max_bytes, n_turns in ((0, 1), (one_turn - 1, 1), (one_turn, 1), (2 * one_turn - 1, 1), (2 * one_turn, 2)):
        found = await store.recent(owner, session.id, max_bytes=max_bytes)
        assert list(found) == [*everything[:2], *everything[-2 * n_turns :]]
    assert list(await store.recent(owner, session.id, max_bytes=2**70)) == list(everything)
    for max_messages, n_turns in ((0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (12, 6)):
        found = await store.recent(owner, session.id, max_bytes=2**70, max_messages=max_messages)
        assert list(found) == [*everything[:2], *everything[-2 * n_turns :]]
    assert list(await store.recent(owner, session.id, max_bytes=0, max_messages=9)) == [
        *everything[:2],
        *everything[-2:],
    ]
    middle = await store.create(owner, turns=[exchange(0), turn_of("changed rules", role="system"), exchange(1)])
    assert texts_of(await store.recent(owner, middle.id, max_bytes=1)) == ["question 1", "answer 1"]
    together = Turn((*instructions, {"role": "user", "content": "Hello"}))
    begun = await store.create(owner, turns=[together, exchange(1)])
    assert texts_of(await store.recent(owner, begun.id, max_bytes=1)) == [
        "Be brief.", "Be kind.", "question 1", "answer 1",
    ]  # fmt: skip


async def check_what_is_deleted_is_gone(store: SessionStore, limits: StoreLimits) -> None:
    """With its messages, for every verb, and deleting it again finds nothing."""
    owner = new_owner()
    kept = await store.create(owner, turns=[exchange(0)])
    session = await store.create(owner, turns=[exchange(0)])
    await store.delete(owner, session.id)
    await _refuses_everything(store, owner, session.id)
    assert list(await store.list(owner, limit=10)) == [kept]
    assert len(await store.messages(owner, kept.id, limit=10)) == 2


async def check_foreign_sessions_look_like_absent_ones(store: SessionStore, limits: StoreLimits) -> None:
    """Every verb says the same of somebody else's session as of none, and does nothing to it."""
    mine, other = new_owner(), new_owner()
    session = await store.create(mine, title="secret", turns=[exchange(0)])
    theirs = await store.create(other)
    absent = str(uuid.uuid4())
    foreign_words = await _refuses_everything(store, other, session.id)
    absent_words = await _refuses_everything(store, other, absent)
    assert [words.replace(session.id, absent) for words in foreign_words] == absent_words
    assert await store.get(mine, session.id) == session
    assert list(await store.list(other, limit=10)) == [theirs]
    for owner in ("", mine.upper(), mine + " ", mine[:-1]):
        await _refuses_everything(store, owner, session.id)


async def check_odd_ids_are_absent_ones(store: SessionStore, limits: StoreLimits) -> None:
    """Whatever a caller sends as an id."""
    owner = new_owner()
    session = await store.create(owner, turns=[exchange(0)])
    for odd in (*ODD_IDS, session.id.upper(), session.id + "\x00"):
        await _refuses_everything(store, owner, odd)
        assert await store.get_record(owner, "kind", odd) is None
        assert not await store.delete_record(owner, "kind", odd)
        assert list(await store.list_records(owner, "kind", group=odd, limit=5)) == []
    assert await store.get(owner, session.id) == session


async def _refuses_everything(store: SessionStore, owner: str, session_id: str) -> list[str]:
    """Ask for a session by all verbs, and return what each of them says."""
    verbs: list[Awaitable[object]] = [
        store.get(owner, session_id),
        store.list(owner, limit=5, after=session_id),
        store.change(owner, session_id, SessionChange(title="mine now")),
        store.delete(owner, session_id),
        store.messages(owner, session_id, limit=5),
        store.recent(owner, session_id, max_bytes=1000),
        store.append(owner, session_id, exchange(9), after=2),
        store.append(owner, session_id, exchange(9), after=0),
    ]
    errors = [await expect(SessionNotFoundError, verb) for verb in verbs]
    return [f"{error.to_wire()}" for error in errors]


async def check_concurrent_appends_are_ordered(store: SessionStore, limits: StoreLimits) -> None:
    """Two clients append to one session as fast as they can: a total order, whole turns, none lost, none twice."""
    owner = new_owner()
    session = await store.create(owner)
    n_turns = 15

    async def client(name: str) -> int:
        n_messages, n_conflicts, number = 0, 0, 0
        while number < n_turns:
            turn = turn_of(f"{name} asks {number}", f"{name} hears {number}")
            try:
                n_messages = (await store.append(owner, session.id, turn, after=n_messages)).n_messages
                number += 1
            except SessionConflictError:
                n_conflicts += 1
                n_messages = (await store.get(owner, session.id)).n_messages
        return n_conflicts

    await asyncio.gather(client("a"), client("b"))
    kept = await store.messages(owner, session.id, limit=1000)
    assert [one.index for one in kept] == list(range(4 * n_turns))
    pairs = [(first, second) for first, second in zip(texts_of(kept)[::2], texts_of(kept)[1::2], strict=True)]
    assert all(second == first.replace("asks", "hears") for first, second in pairs)
    for name in ("a", "b"):
        assert [first for first, _ in pairs if first.startswith(name)] == [
            f"{name} asks {number}" for number in range(n_turns)
        ]


async def check_one_of_many_wins(store: SessionStore, limits: StoreLimits) -> None:
    """Of several that append behind the same message at once, one does, and the others are told."""
    owner = new_owner()
    session = await store.create(owner)
    turns = [turn_of(f"client {number}") for number in range(8)]
    results = await asyncio.gather(
        *(store.append(owner, session.id, turn, after=0) for turn in turns), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, SessionConflictError)]
    assert len(refused) == 7
    assert (await store.get(owner, session.id)).n_messages == 1


CHECKS: tuple[Check, ...] = (
    check_what_is_created_can_be_read,
    check_ids_are_new_every_time,
    check_turns_are_appended_in_order,
    check_messages_come_back_as_they_were,
    check_what_does_not_follow_is_refused,
    check_messages_are_read_in_pages,
    check_lists_are_paged_by_last_use,
    check_changes_leave_the_rest,
    check_recent_gives_the_last_whole_turns,
    check_what_is_deleted_is_gone,
    check_foreign_sessions_look_like_absent_ones,
    check_odd_ids_are_absent_ones,
    check_concurrent_appends_are_ordered,
    check_one_of_many_wins,
    *STATE_CHECKS,
    *RECORD_CHECKS,
    *LIMIT_CHECKS,
)
