"""The decision who goes and who comes, for all snapshots: never a busy one, never a pinned one, nobody overtakes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.model import Mode
from localllm.host.residency import Decision, InstanceKey, Limits, Resident, Use, Waiter, decide

GENERATE, POOL = Mode.GENERATE, Mode.POOL
NOW = 100.0


def resident(name: str, size: int = 1, used_at: float = 0.0, use: Use = Use.IDLE, **facts: bool) -> Resident:
    return Resident(InstanceKey(name, GENERATE), size, used_at, use, **facts)


def waiter(name: str, size: int = 1, waited: float = 0.0) -> Waiter:
    return Waiter(InstanceKey(name, GENERATE), size, NOW - waited)


def names(keys: tuple[InstanceKey, ...]) -> list[str]:
    return [key.model_id for key in keys]


def outcome(decision: Decision) -> tuple[list[str], list[str], list[str]]:
    return names(decision.admit), names(decision.evict), names(decision.refuse)


ONE = Limits(max_loaded=1, patience_seconds=5.0)


def test_without_limits_everybody_comes_in() -> None:
    busy = [resident("a", 99, use=Use.IN_USE)]
    assert outcome(decide(busy, [waiter("b", 99), waiter("c", 99)], Limits(), NOW)) == (["b", "c"], [], [])


def test_the_least_recently_used_idle_one_goes() -> None:
    there = [resident("new", used_at=3), resident("old", used_at=1), resident("busy", used_at=0, use=Use.IN_USE)]
    assert outcome(decide(there, [waiter("d")], Limits(max_loaded=3), NOW)) == ([], ["old"], [])


def test_one_file_in_two_modes_counts_twice() -> None:
    there = [resident("a", used_at=2), replace(resident("a", used_at=1), key=InstanceKey("a", POOL))]
    assert decide(there, [waiter("b")], Limits(max_loaded=2), NOW).evict == (InstanceKey("a", POOL),)
    assert decide(there, [waiter("b")], Limits(max_loaded=3), NOW).evict == ()


def test_a_leaving_one_still_takes_room_but_nobody_else_goes_for_it() -> None:
    there = [resident("going", use=Use.IN_USE, leaving=True), resident("idle")]
    assert outcome(decide(there, [waiter("c")], Limits(max_loaded=2), NOW)) == ([], [], [])
    assert outcome(decide(there[1:], [waiter("c")], Limits(max_loaded=2), NOW)) == (["c"], [], [])


def test_a_big_model_spares_small_ones_that_would_not_have_helped() -> None:
    there = [resident("small", 1, used_at=1), resident("big", 8, used_at=2), resident("other", 1, used_at=3)]
    assert outcome(decide(there, [waiter("c", 8)], Limits(memory_bytes=10), NOW)) == ([], ["big"], [])


def test_nobody_goes_before_enough_can() -> None:
    there = [resident("idle", 4), resident("busy", 4, use=Use.IN_USE)]
    limits = Limits(memory_bytes=10, patience_seconds=5.0)
    assert outcome(decide(there, [waiter("c", 8)], limits, NOW)) == ([], [], [])
    assert outcome(decide(there, [waiter("c", 8, waited=5)], limits, NOW)) == ([], ["idle", "busy"], [])


def test_a_busy_one_keeps_its_door_open_until_the_waiter_has_waited_for_long_enough() -> None:
    there = [resident("a", use=Use.IN_USE)]
    assert decide(there, [waiter("b", waited=4.9)], ONE, NOW) == Decision()
    assert outcome(decide(there, [waiter("b", waited=5)], ONE, NOW)) == ([], ["a"], [])


def test_whoever_has_just_arrived_is_not_sent_away_however_long_another_waits() -> None:
    there = [resident("a", use=Use.ARRIVING)]
    assert decide(there, [waiter("b", waited=3600)], ONE, NOW) == Decision()


def test_two_waiters_share_one_eviction_where_there_is_but_one_place() -> None:
    assert outcome(decide([resident("a")], [waiter("b"), waiter("c")], ONE, NOW)) == ([], ["a"], [])
    assert outcome(decide([], [waiter("b"), waiter("c")], ONE, NOW)) == (["b"], [], [])


def test_room_is_made_for_several_at_once_where_there_is_enough() -> None:
    there = [resident("a", used_at=1), resident("b", used_at=2)]
    decision = decide(there, [waiter("c"), waiter("d")], Limits(max_loaded=2), NOW)
    assert outcome(decision) == ([], ["a", "b"], [])


def test_a_small_one_does_not_overtake_a_big_one() -> None:
    there = [resident("a", 6, use=Use.IN_USE)]
    assert decide(there, [waiter("big", 8), waiter("small", 1)], Limits(memory_bytes=10), NOW) == Decision()


def test_who_has_no_room_beside_the_pinned_is_refused_and_stops_nobody() -> None:
    there = [resident("pin", 6, pinned=True)]
    decision = decide(there, [waiter("big", 8), waiter("small", 1)], Limits(memory_bytes=10), NOW)
    assert outcome(decision) == (["small"], [], ["big"])
    assert outcome(decide([resident("pin", pinned=True)], [waiter("b")], ONE, NOW)) == ([], [], ["b"])


def test_what_proved_to_be_too_much_goes_when_it_is_idle_but_never_the_last_one() -> None:
    limits = Limits(memory_bytes=10)
    there = [resident("a", 6, used_at=1), resident("b", 6, used_at=2), resident("c", 1, used_at=3)]
    assert outcome(decide(there, [], limits, NOW)) == ([], ["a"], [])
    assert outcome(decide([resident("a", 60)], [], limits, NOW)) == ([], [], [])
    held = [resident("a", 6, pinned=True), resident("b", 6, use=Use.IN_USE)]
    assert outcome(decide(held, [], limits, NOW)) == ([], [], [])


sizes = st.integers(0, 12)
residents = st.lists(
    st.builds(
        Resident,
        st.builds(InstanceKey, st.sampled_from("abcdef"), st.sampled_from(Mode)),
        sizes,
        st.integers(0, 5).map(float),
        st.sampled_from(Use),
        pinned=st.booleans(),
        leaving=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.key,
)
waiters = st.lists(
    st.builds(
        Waiter,
        st.builds(InstanceKey, st.sampled_from("uvwxyz"), st.sampled_from(Mode)),
        sizes,
        st.integers(85, 100).map(float),
    ),
    max_size=5,
    unique_by=lambda one: one.key,
)
spares = st.lists(
    st.builds(
        Waiter,
        st.builds(InstanceKey, st.sampled_from("abc"), st.just(GENERATE), st.integers(1, 2)),
        sizes,
        st.integers(0, 100).map(float),
        st.just(True),
    ),
    max_size=3,
    unique_by=lambda one: one.key,
)
limits_of_all_kinds = st.builds(Limits, st.integers(0, 5), st.integers(0, 20), st.just(5.0))


def fits(there: list[Resident], limits: Limits, more: list[int]) -> bool:
    count, taken = len(there) + len(more), sum(one.memory_bytes for one in there) + sum(more)
    return (not limits.max_loaded or count <= limits.max_loaded) and (
        not limits.memory_bytes or taken <= limits.memory_bytes
    )


@given(residents, waiters, limits_of_all_kinds)
def test_who_may_go_and_who_comes_in(there: list[Resident], queue: list[Waiter], limits: Limits) -> None:
    decision = decide(there, queue, limits, NOW)
    by_key = {one.key: one for one in there}
    patience_is_over = any(NOW - one.since >= limits.patience_seconds for one in queue)
    for key in decision.evict:
        one = by_key[key]
        assert not one.pinned
        assert not one.leaving
        assert one.use is Use.IDLE or (one.use is Use.IN_USE and patience_is_over)
    assert len(set(decision.evict)) == len(decision.evict)
    sizes_in = [one.memory_bytes for one in queue if one.key in decision.admit]
    assert fits(there, limits, sizes_in) or not sizes_in, "what comes in fits beside all that is still there"
    in_order = [one.key for one in queue if one.key not in decision.refuse]
    assert list(decision.admit) == in_order[: len(decision.admit)], "nobody overtakes"


@given(residents, waiters, spares, limits_of_all_kinds)
def test_spare_instances_take_what_is_left_and_never_wait_for_busy_ones(
    there: list[Resident], queue: list[Waiter], spare: list[Waiter], limits: Limits
) -> None:
    without, decision = decide(there, queue, limits, NOW), decide(there, [*queue, *spare], limits, NOW)
    if queue:
        assert decision.admit[: len(without.admit)] == without.admit
        assert decision.evict[: len(without.evict)] == without.evict
        evicted = set(decision.evict[len(without.evict) :])
        assert all(one.use is Use.IDLE for one in there if one.key in evicted)
        helped = {one.key.model for one in spare if one.key not in {*decision.admit, *decision.refuse}}
        assert len(helped) > 1 or not any(key.model in helped for key in evicted)
    gone = {*decision.evict, *(one.key for one in there if one.leaving)}
    coming = [one.memory_bytes for one in [*queue, *spare] if one.key not in decision.refuse]
    waits = {one.key for one in spare} - {*decision.admit, *decision.refuse}
    if waits and not [one for one in queue if one.key not in {*decision.admit, *decision.refuse}]:
        assert fits([one for one in there if one.key not in gone], limits, coming), "only for those who go already"


def test_a_spare_instance_is_refused_where_busy_ones_would_have_to_go() -> None:
    spare = replace(waiter("a", waited=3600), spare=True)
    assert outcome(decide([resident("a", use=Use.IN_USE)], [spare], ONE, NOW)) == ([], [], ["a"])
    assert outcome(decide([resident("b")], [spare], ONE, NOW)) == ([], ["b"], [])
    assert outcome(decide([resident("a")], [replace(spare, key=InstanceKey("a", GENERATE, 1))], ONE, NOW)) == (
        [],
        [],
        ["a"],
    ), "whom it was to help is idle by now"
    assert outcome(decide([], [waiter("c"), spare], ONE, NOW)) == (["c"], [], ["a"])


def test_an_idle_model_goes_at_once_though_a_busy_one_that_goes_later_would_be_enough_for_both() -> None:
    there = [resident("a", 1, used_at=1.0), resident("b", 2, used_at=2.0, use=Use.IN_USE)]
    first, second = waiter("c", 0, waited=60.0), waiter("d", 1, waited=60.0)
    assert outcome(decide(there, [first, second], Limits(memory_bytes=2), NOW)) == ([], ["a", "b"], [])
    assert outcome(decide(there, [first], Limits(memory_bytes=2), NOW)) == ([], ["a"], [])


@given(residents, waiters, limits_of_all_kinds)
def test_nobody_goes_in_vain(there: list[Resident], queue: list[Waiter], limits: Limits) -> None:
    """Whoever goes makes room for one of those who wait, without whom no other would have been enough for that one."""
    decision = decide(there, queue, limits, NOW)
    if not queue or not decision.evict:
        return
    gone = {*decision.evict, *(one.key for one in there if one.leaving)}
    later = decide([one for one in there if one.key not in gone], queue, limits, NOW)
    assert len(later.admit) > len(decision.admit)
    for spared in decision.evict:
        assert any(_is_needed(spared, there, queue[:first], limits) for first in range(1, len(queue) + 1))


def _is_needed(spared: InstanceKey, there: list[Resident], queue: list[Waiter], limits: Limits) -> bool:
    """Whether one that goes for the first of the queue could not have stayed: one fewer would not have been enough."""
    gone = {*decide(there, queue, limits, NOW).evict, *(one.key for one in there if one.leaving)}
    later = decide([one for one in there if one.key not in gone], queue, limits, NOW)
    again = decide([one for one in there if one.key not in gone or one.key == spared], queue, limits, NOW)
    return spared in gone and len(again.admit) < len(later.admit)


@given(residents, waiters, limits_of_all_kinds, st.data())
def test_a_waiter_that_leaves_changes_nothing_for_those_before_it(
    there: list[Resident], queue: list[Waiter], limits: Limits, data: st.DataObject
) -> None:
    if len(queue) < 2:
        return
    stays = data.draw(st.integers(1, len(queue) - 1))
    whole, shorter = decide(there, queue, limits, NOW), decide(there, queue[:stays], limits, NOW)
    assert whole.admit[: len(shorter.admit)] == shorter.admit
    assert whole.evict[: len(shorter.evict)] == shorter.evict
    assert set(shorter.refuse) <= set(whole.refuse)


@given(residents, waiters, limits_of_all_kinds)
def test_whoever_waits_comes_in_or_is_refused_once_the_others_have_finished(
    there: list[Resident], queue: list[Waiter], limits: Limits
) -> None:
    """Room is made step by step while all requests end: no snapshot leaves a waiter behind."""
    queue = [one for one in queue if not limits.memory_bytes or one.memory_bytes <= limits.memory_bytes]
    late = NOW + limits.patience_seconds
    for _ in range(len(there) + 2 * len(queue) + 2):
        decision = decide(there, queue, limits, late)
        done = {*decision.admit, *decision.refuse}
        there = [one for one in there if one.key not in decision.evict and not one.leaving]
        there = [replace(one, use=Use.IDLE) for one in there]
        there += [Resident(one.key, one.memory_bytes, late) for one in queue if one.key in decision.admit]
        queue = [one for one in queue if one.key not in done]
    assert not queue
