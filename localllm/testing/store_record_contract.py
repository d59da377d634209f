"""What every session store has to do with records, and with owners who keep too much: a part of the contract."""

from __future__ import annotations

from dataclasses import replace

from localllm.contract.sessions import (
    Record,
    SessionChange,
    SessionQuotaExceededError,
    SessionStore,
)
from localllm.testing.sessions import StoreLimits
from localllm.testing.store_kit import Check, expect, new_owner, turn_of


def _record(record_id: str, position: int = 0, *, kind: str = "item", group: str = "g") -> Record:
    return Record(kind, record_id, {"id": record_id, "text": "é🙂"}, 1.5, group, position)


async def check_records_are_kept_and_replaced(store: SessionStore, limits: StoreLimits) -> None:
    """One of the same kind and id replaces the other, with its group and position."""
    owner = new_owner()
    await store.put_records(owner, [_record("a"), _record("a", kind="other")])
    assert await store.get_record(owner, "item", "a") == _record("a")
    newer = Record("item", "a", {"new": [1, None, {"deep": "\x00"}]}, 2.5, "h", 7)
    await store.put_records(owner, [newer])
    assert await store.get_record(owner, "item", "a") == newer
    assert await store.get_record(owner, "other", "a") == _record("a", kind="other")
    assert list(await store.list_records(owner, "item", group="g", limit=5)) == []
    assert list(await store.list_records(owner, "item", group="h", limit=5)) == [newer]
    await store.put_records(owner, [])
    twice = [_record("b", 1), _record("b", 2)]
    await store.put_records(owner, twice)
    assert await store.get_record(owner, "item", "b") == twice[1]


async def check_records_are_listed_by_position(store: SessionStore, limits: StoreLimits) -> None:
    """In both directions, in pages; of one kind and one group only."""
    owner = new_owner()
    records = [_record(f"r{position}", position) for position in (-5, 0, 1, 7, 2**40)]
    others = [_record("x", 1, kind="other"), _record("y", 1, group="h"), _record("z", 1, group="")]
    await store.put_records(owner, [*reversed(records), *others])
    for newest_first, expected in ((False, records), (True, records[::-1])):
        found: list[Record] = []
        while page := await store.list_records(
            owner,
            "item",
            group="g",
            limit=2,
            after=found[-1].position if found else None,
            newest_first=newest_first,
        ):
            assert len(page) <= 2
            found += page
        assert found == expected
    assert [one.id for one in await store.list_records(owner, "item", group="", limit=5)] == ["z"]
    assert list(await store.list_records(owner, "item", group="g", limit=5, after=2**70)) == []
    await store.put_records(owner, [replace(records[0], position=8)])
    assert [one.id for one in await store.list_records(owner, "item", group="g", limit=9)][-2:] == ["r-5", f"r{2**40}"]


async def check_a_group_goes_with_its_record(store: SessionStore, limits: StoreLimits) -> None:
    """Of all kinds, but no other owner's, nor anything when the record itself is not there."""
    owner, other = new_owner(), new_owner()
    whole = [_record("g", kind="whole", group=""), _record("a", 1), _record("b", 2, kind="note")]
    for one in (owner, other):
        await store.put_records(one, [*whole, _record("c", 3, group="h")])
    assert not await store.delete_record(owner, "item", "g")
    assert len(await store.list_records(owner, "item", group="g", limit=5)) == 1
    assert await store.delete_record(owner, "whole", "g")
    assert not await store.delete_record(owner, "whole", "g")
    for gone in whole:
        assert await store.get_record(owner, gone.kind, gone.id) is None
        assert await store.get_record(other, gone.kind, gone.id) == gone
    assert await store.get_record(owner, "item", "c") is not None
    assert await store.delete_record(owner, "item", "c")


async def check_foreign_records_look_like_absent_ones(store: SessionStore, limits: StoreLimits) -> None:
    """An owner finds and deletes its own only, and two owners may have records of one id."""
    mine, other = new_owner(), new_owner()
    await store.put_records(mine, [_record("a"), _record("g", kind="whole", group="")])
    assert await store.get_record(other, "item", "a") is None
    assert list(await store.list_records(other, "item", group="g", limit=5)) == []
    assert not await store.delete_record(other, "item", "a")
    assert not await store.delete_record(other, "whole", "g")
    await store.put_records(other, [replace(_record("a"), body={"theirs": True})])
    assert await store.get_record(mine, "item", "a") == _record("a")
    assert await store.delete_record(other, "item", "a")
    assert await store.get_record(mine, "item", "a") == _record("a")


RECORD_CHECKS: tuple[Check, ...] = (
    check_records_are_kept_and_replaced,
    check_records_are_listed_by_position,
    check_a_group_goes_with_its_record,
    check_foreign_records_look_like_absent_ones,
)


async def check_the_number_of_sessions_is_limited(store: SessionStore, limits: StoreLimits) -> None:
    """One owner's sessions are counted, not another's, and deleting one makes room."""
    most = limits.max_sessions_per_owner
    if most is None:
        return
    owner = new_owner()
    made = [await store.create(owner) for _ in range(most)]
    await expect(SessionQuotaExceededError, store.create(owner))
    assert len(await store.list(owner, limit=most + 1)) == most
    await store.create(new_owner())
    await store.delete(owner, made[0].id)
    await store.create(owner)


async def check_bytes_are_limited(store: SessionStore, limits: StoreLimits) -> None:
    """One owner's bytes are counted, messages and records together; what is too much changes nothing."""
    most = limits.max_bytes_per_owner
    if most is None:
        return
    owner = new_owner()
    half = "x" * (most // 2)
    session = await store.create(owner, turns=[turn_of(half)])
    record = Record("kind", "big", {"text": half}, 1.0)
    for too_much in (
        store.append(owner, session.id, turn_of("small", half), after=1),
        store.create(owner, turns=[turn_of(half)]),
        store.change(owner, session.id, SessionChange(metadata={"text": half})),
        store.put_records(owner, [Record("kind", "small", {}, 1.0), record]),
    ):
        await expect(SessionQuotaExceededError, too_much)
    assert await store.get(owner, session.id) == session
    assert await store.get_record(owner, "kind", "small") is None
    assert len(await store.list(owner, limit=5)) == 1
    await store.append(owner, session.id, turn_of("still small"), after=1)
    await store.create(new_owner(), turns=[turn_of(half)])
    await store.delete(owner, session.id)
    await store.put_records(owner, [record])
    await store.put_records(owner, [record])  # replaced: it counts once
    assert await store.delete_record(owner, "kind", "big")
    await store.create(owner, turns=[turn_of(half)])


LIMIT_CHECKS: tuple[Check, ...] = (
    check_the_number_of_sessions_is_limited,
    check_bytes_are_limited,
)
