"""The part of the store contract about what is remembered beside turns, and about ids that the server made up."""

from __future__ import annotations

from dataclasses import replace

from localllm.contract.sessions import (
    SessionChange,
    SessionConflictError,
    SessionNotFoundError,
    SessionStore,
    new_session_id,
)
from localllm.testing.sessions import StoreLimits
from localllm.testing.store_kit import Check, exchange, expect, new_owner


async def check_state_goes_with_the_turns(store: SessionStore, limits: StoreLimits) -> None:
    """The last turn that brought a state counts; nothing else touches it."""
    owner = new_owner()
    made = await store.create(owner)
    assert made.state == {}
    state = {"start": 4, "системно": [{"role": "system", "content": "🙂"}], "none": None}
    told = await store.append(owner, made.id, replace(exchange(0), state=state), after=0)
    kept = await store.append(owner, made.id, exchange(1), after=2)
    assert told.state == kept.state == (await store.get(owner, made.id)).state == state
    changed = await store.change(owner, made.id, SessionChange(title="t", metadata={"a": 1}))
    assert (changed.state, changed.metadata) == (state, {"a": 1})
    await expect(SessionConflictError, store.append(owner, made.id, replace(exchange(2), state={"x": 1}), after=0))
    assert (await store.get(owner, made.id)).state == state
    emptied = await store.append(owner, made.id, replace(exchange(2), state={}), after=4)
    assert emptied.state == {}
    begun = await store.create(owner, turns=[replace(exchange(0), state={"a": 1}), exchange(1)])
    assert begun.state == {"a": 1}
    assert [one.state for one in await store.list(owner, limit=5)] == [{"a": 1}, {}]


async def check_the_server_may_make_up_the_id(store: SessionStore, limits: StoreLimits) -> None:
    """Nothing is kept until then; afterwards it is taken, for everybody."""
    owner, other, session_id = new_owner(), new_owner(), new_session_id()
    await expect(SessionNotFoundError, store.get(owner, session_id))
    made = await store.create(owner, title="mine", turns=[exchange(0)], session_id=session_id)
    assert made.id == session_id
    assert await store.get(owner, session_id) == made
    for taker in (owner, other):
        await expect(SessionConflictError, store.create(taker, session_id=session_id, turns=[exchange(1)]))
    assert await store.get(owner, session_id) == made
    assert list(await store.list(other, limit=5)) == []


async def check_a_turn_names_what_has_no_title(store: SessionStore, limits: StoreLimits) -> None:
    """In the same moment, and never over what somebody else has named meanwhile."""
    owner = new_owner()
    made = await store.create(owner)
    named = await store.append(owner, made.id, replace(exchange(0), title="Café 🙂"), after=0)
    assert named == await store.get(owner, made.id)
    assert named.title == "Café 🙂"
    assert (await store.append(owner, made.id, replace(exchange(1), title="other"), after=2)).title == "Café 🙂"
    assert (await store.append(owner, made.id, exchange(2), after=4)).title == "Café 🙂"
    await expect(SessionConflictError, store.append(owner, made.id, replace(exchange(3), title="late"), after=0))
    await store.change(owner, made.id, SessionChange(title=""))
    assert (await store.append(owner, made.id, replace(exchange(3), title="again"), after=6)).title == "again"
    assert (await store.create(owner, title="mine", turns=[replace(exchange(0), title="other")])).title == "mine"


STATE_CHECKS: tuple[Check, ...] = (
    check_state_goes_with_the_turns,
    check_the_server_may_make_up_the_id,
    check_a_turn_names_what_has_no_title,
)
