"""The choice among instances, and a model with several of them behind its name: when they come, and when they go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import ModelBusyError, ModelLoadError, OverloadedError, UnavailableError
from localllm.contract.model import Mode
from localllm.host.instances import (
    Affinities,
    Capacity,
    Instance,
    choose,
    n_present,
    startable,
    surplus,
    wants_another,
)
from localllm.host.states import ModelState
from tests.event_loop import settle
from tests.host.registry_kit import Play, Use, World

READY, LOADING, DRAINING = ModelState.READY, ModelState.LOADING, ModelState.DRAINING
UNLOADED, FAILED = ModelState.UNLOADED, ModelState.FAILED
TWO = Capacity(2, 4)


def ready(number: int, in_flight: int = 0, *, parallel: int = 1, outdated: bool = False) -> Instance:
    return Instance(number, READY, in_flight, 0, parallel, in_flight > 0 or not outdated, outdated)


# --- the choice ---


def test_the_one_with_the_fewest_requests_is_chosen_and_of_equals_the_first() -> None:
    assert choose([ready(0, 1, parallel=4), ready(1, parallel=4)], TWO) == 1
    assert choose([ready(0), ready(1)], TWO) == 0
    assert choose([ready(0, 3), ready(1, 2)], TWO) == 1


def test_the_preferred_one_is_chosen_while_it_has_an_answer_free() -> None:
    assert choose([ready(0, 0, parallel=2), ready(1, 1, parallel=2)], TWO, preferred=1) == 1
    assert choose([ready(0, 0, parallel=2), ready(1, 2, parallel=2)], TWO, preferred=1) == 0
    assert choose([ready(0, 2, parallel=2), ready(1, 3, parallel=2)], TWO, preferred=1) == 0


def test_an_outdated_one_is_the_last_choice_of_those_that_are_free() -> None:
    assert choose([ready(0, 1, parallel=4, outdated=True), ready(1, 2, parallel=4)], TWO) == 1
    assert choose([ready(0, 1, parallel=4, outdated=True), ready(1, 4, parallel=4)], TWO) == 0
    assert choose([ready(0, outdated=True), Instance(1, UNLOADED)], TWO) == 0


def test_nobody_waits_for_a_load_while_one_that_runs_can_queue_the_request() -> None:
    assert choose([ready(0, 3), Instance(1, LOADING)], TWO) == 0
    assert choose([ready(0, 4), Instance(1, LOADING)], TWO) == 1
    assert choose([Instance(0, UNLOADED), Instance(1, LOADING, waiting=3)], TWO) == 1
    assert choose([Instance(0, DRAINING, 1), Instance(1, FAILED)], TWO) == 1
    assert choose([Instance(0, DRAINING, 1)], TWO) is None, "a new one"
    assert choose([Instance(0, DRAINING, 1), Instance(1, DRAINING, waiting=1)], TWO) == 1
    assert choose([Instance(0, DRAINING, 1)], Capacity(1, 4)) == 0, "it is loaded again"


states = st.sampled_from(ModelState)


@st.composite
def snapshots(draw: st.DrawFn) -> list[Instance]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        state, outdated = draw(states), draw(st.booleans())
        in_flight = draw(st.integers(0, 5)) if state in {READY, DRAINING} else 0
        waiting = draw(st.integers(0, 5))
        usable = state is READY and (in_flight > 0 or not outdated)
        found.append(Instance(number, state, in_flight, waiting, draw(st.integers(1, 3)), usable, outdated))
    return found


capacities = st.builds(Capacity, st.integers(1, 5), st.integers(1, 6))


@given(snapshots(), capacities, st.none() | st.integers(0, 5))
def test_a_request_goes_where_it_is_taken_if_it_is_anywhere(
    there: list[Instance], capacity: Capacity, preferred: int | None
) -> None:
    number = choose(there, capacity, preferred)
    if number is None:
        assert n_present(there) < capacity.max_instances
        assert not any(one.is_at_rest for one in there)
        return
    chosen = there[number]
    open_ones = [one for one in there if one.load < capacity.max_queue]
    usable = [one for one in open_ones if one.usable]
    if usable:
        assert chosen in usable
        assert not chosen.is_busy or all(one.is_busy for one in usable)
        assert not chosen.is_busy or chosen.load == min(one.load for one in usable if one.outdated == chosen.outdated)
    elif any(one.stays for one in open_ones):
        assert chosen in open_ones
    if chosen.is_at_rest and n_present(there):
        assert n_present(there) < capacity.max_instances


@given(snapshots(), capacities)
def test_there_are_never_more_than_the_bound(there: list[Instance], capacity: Capacity) -> None:
    for entered in [one for one in there if wants_another(there, capacity, one.number)]:
        assert entered.load > entered.parallel
        assert n_present(there) < capacity.max_instances
        assert all(one.is_busy for one in there if one.usable)
        number = startable(there, capacity)
        assert number is None or there[number].is_at_rest
    gone = surplus(there, capacity.max_instances)
    assert all(there[number].state is READY for number in gone)
    left = [one for one in there if one.stays and one.number not in gone]
    assert len(left) <= capacity.max_instances or all(one.state is not READY for one in left)
    assert not gone or len(left) == capacity.max_instances or all(one.state is not READY for one in left)


def test_affinities_are_bounded_and_the_oldest_goes_first() -> None:
    affinities = Affinities(2)
    for affinity, number in ((1, 0), (2, 1), (1, 0), (3, 1), (None, 5)):
        affinities.note(affinity, number)
    assert [affinities.find(one) for one in (1, 2, 3, None)] == [0, None, 1, None]


# --- a model with instances ---


@asynccontextmanager
async def keeping(world: World) -> AsyncIterator[None]:
    """What is always to be there is loaded, and the registry sees to it."""
    await world.registry.preload([])
    running = asyncio.create_task(world.registry.run())
    await settle()
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def look(world: World, seconds: float = 0.0) -> None:
    """Let time pass, and have the registry look around."""
    world.now += seconds
    await world.registry.unload_idle()
    world.registry.idle_changed(-1.0)
    await settle()


def numbers(world: World, name: str = "twin") -> list[int]:
    """Which instances are loaded and stay."""
    (status,) = [one for one in world.registry.status() if one.id == name]
    return [one.number for one in status.instances if one.state is READY]


async def uses(world: World, count: int, name: str = "twin") -> list[Use]:
    """Begin requests one after the other."""
    begun = []
    for _ in range(count):
        begun.append(world.use(name))
        await settle()
    return begun


async def end(begun: list[Use]) -> None:
    for use in begun:
        await use.end()


async def full_house(world: World, count: int) -> None:
    """Have ``count`` instances loaded, and idle."""
    begun = await uses(world, 2 * count)
    assert len(numbers(world)) == count
    await end(begun)


def test_a_second_instance_comes_when_somebody_has_to_wait_and_takes_the_next_requests(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2, meta={"parallel": 2})
        first = await uses(world, 2)
        assert (world.remote.calls, numbers(world)) == (1, [0]), "it answers both at once"
        world.remote.gate.clear()
        third, fourth = await uses(world, 2)
        assert await third.entered is await fourth.entered is world.remote.clients[0], "they do not wait for the load"
        assert world.remote.calls == 2
        world.remote.gate.set()
        await settle()
        fifth, sixth = await uses(world, 2)
        assert await fifth.entered is await sixth.entered is world.remote.clients[1]
        (status,) = world.registry.status()
        assert (status.in_flight, [one.in_flight for one in status.instances]) == (6, [4, 2])
        more = await uses(world, 4)
        assert world.remote.calls == 2, "there may be no more"
        await end([*first, third, fourth, fifth, sixth, *more])
        world.check_counts()
        assert await world.registry.unload("twin")
        assert (world.states(), [one.closed for one in world.remote.clients]) == ({"twin": "unloaded"}, [1, 1])
        assert world.unloaded_for("request") == ["twin", "twin"]

    play(scenario)


def test_what_waited_for_the_first_instance_has_a_second_one_loaded(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=3)
        world.remote.gate.clear()
        begun = await uses(world, 5)
        assert world.remote.calls == 1, "one load at a time"
        world.remote.gate.set()
        await settle()
        assert numbers(world) == [0, 1]
        (next_one,) = await uses(world, 1)
        assert await next_one.entered is world.remote.clients[1]
        assert numbers(world) == [0, 1], "no third: it had an answer free"
        begun += await uses(world, 1)
        assert numbers(world) == [0, 1, 2]
        await end([*begun, next_one])

    play(scenario)


def test_another_instance_is_loaded_where_only_idle_models_go_for_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2)
        other = world.use("chat")
        await other.entered
        begun = await uses(world, 3)
        assert (numbers(world), world.unloaded_for("evicted")) == ([0], []), "the other one is busy"
        assert not world.registry.room.crowded
        await other.end()
        begun += await uses(world, 1)
        assert numbers(world) == [0], "it was tried a moment ago"
        world.now += 1
        begun += await uses(world, 1)
        assert (numbers(world), world.unloaded_for("evicted")) == ([0, 1], ["chat"])
        await end(begun)
        await world.touch("chat")
        assert (numbers(world), world.loaded()) == ([1], ["chat", "twin"]), "the least recently used instance goes"
        world.check_counts()

    play(scenario, max_loaded=2)


def test_memory_counts_for_each_instance(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=9, meta={"bytes": 4})
        begun = await uses(world, 20)
        assert numbers(world) == [0, 1]
        (status,) = world.registry.status()
        assert (status.memory_bytes, [one.memory_bytes for one in status.instances]) == (8, [4, 4])
        assert sum(world.registry.room.held.values()) == 8
        await end(begun)

    play(scenario, memory_limit_bytes=11)


def test_an_instance_that_can_not_be_loaded_leaves_the_others_alone_and_is_tried_again_later(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2, settings={"n_gpu_layers": 10})
        begun = await uses(world, 1)
        world.remote.error = ModelLoadError("out of memory")
        begun += await uses(world, 5)
        (status,) = world.registry.status()
        assert (status.state, status.error, status.in_flight) == (READY, None, 6)
        assert [(one.state, one.error) for one in status.instances] == [(READY, None), (FAILED, "out of memory")]
        assert world.remote.calls == 2, "no layers are taken off the GPU for it"
        world.remote.error = None
        world.now += 29
        begun += await uses(world, 1)
        assert world.remote.calls == 2
        world.now += 1
        begun += await uses(world, 1)
        assert numbers(world) == [0, 1]
        await end(begun)

    play(scenario)


def test_who_waited_for_an_instance_that_fails_goes_to_one_that_runs(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2)
        begun = await uses(world, 1)
        world.remote.gate.clear()
        begun += await uses(world, 1)
        (late,) = await uses(world, 1)
        assert not late.entered.done(), "the first one is full"
        await begun.pop().end()
        world.remote.error = ModelLoadError("told to fail")
        world.remote.gate.set()
        assert await late.entered is world.remote.clients[0]
        await end([*begun, late])

    play(scenario, max_queue=2)


def test_a_request_is_refused_only_when_all_instances_are_full(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2)
        begun = await uses(world, 6)
        assert [one.in_flight for one in world.registry.status()[0].instances] == [3, 3]
        with pytest.raises(OverloadedError, match="3 requests running"):
            await world.use("twin").entered
        await begun.pop(1).end()
        begun += await uses(world, 1)
        assert begun[-1].entered.done()
        await end(begun)

    play(scenario, max_queue=3)


def test_instances_go_one_by_one_when_idle_and_a_pinned_model_keeps_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=3)
        begun = await uses(world, 6)
        assert numbers(world) == [0, 1, 2]
        for use in begun:
            await use.end()
            await look(world, 10)
        assert numbers(world) == [0, 1, 2]
        clients = [await use.entered for use in begun]
        last_used = sorted(
            range(3), key=lambda number: max(i for i in range(6) if clients[i] is world.remote.clients[number])
        )
        for gone in range(1, 4):
            while len(numbers(world)) > 3 - gone:
                await look(world, 1)
            assert numbers(world) == sorted(last_used[gone:])
        world.add("twin", max_instances=3, pinned=True)
        await full_house(world, 3)
        await look(world, 1e9)
        assert numbers(world) == [0]
        assert world.registry.status()[0].expires_in_seconds is None

    play(scenario, idle_unload_seconds=60)


def test_requests_that_begin_alike_go_to_the_same_instance(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2, meta={"parallel": 2})
        await full_house_of(world, 2, 6)
        for affinity in (7, 8):
            busy = world.use("twin", affinity=7)
            mine = world.use("twin", affinity=affinity)
            await busy.entered
            await mine.entered
            await end([busy, mine])
            if affinity == 7:
                assert await busy.entered is await mine.entered
            else:
                assert await busy.entered is not await mine.entered
        again = world.use("twin", affinity=8)
        assert await again.entered is await mine.entered, "though it has a higher number and none has anything to do"
        await again.end()

    async def full_house_of(world: World, count: int, n_requests: int) -> None:
        begun = await uses(world, n_requests)
        assert len(numbers(world)) == count
        await end(begun)

    play(scenario)


def test_what_is_always_to_be_there_is_loaded_at_the_start_and_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=2, max_instances=3)
        world.remote.gate.clear()
        preloading = asyncio.create_task(world.registry.preload(["chat"]))
        await settle()
        assert world.registry.preloading == ["chat", "twin"]
        world.remote.gate.set()
        await preloading
        assert (world.registry.preloading, numbers(world)) == ([], [0, 1])
        assert [spec.id for spec in world.remote.asked] == ["chat", "twin", "twin"]
        await world.registry.unload("chat")
        async with keeping(world), world.registry.acquire("twin", Mode.GENERATE, ttl_seconds=0.0):
            pass
        await look(world, 1e9)
        assert numbers(world) == [0, 1], "neither after a request that lets it go at once, nor for being idle"
        with pytest.raises(UnavailableError, match="no room beside the pinned twin"):
            await world.use("chat").entered
        assert {status.id: status.pinned for status in world.registry.status()} == {"chat": False, "twin": True}
        begun = await uses(world, 5)
        assert numbers(world) == [0, 1], "no room for a third"
        await end(begun)

    play(scenario, max_loaded=2)


def test_only_what_is_above_the_minimum_goes(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=1, max_instances=3)
        async with keeping(world):
            await full_house(world, 3)
            await look(world, 60)
            assert numbers(world) == [0]
            await full_house(world, 3)
            await world.touch("chat", "judge and jury")
            assert (numbers(world), world.loaded()) == ([0], ["chat", "judge and jury", "twin"])

    def with_another(world: World) -> None:
        world.add("judge and jury")

    async def whole(world: World) -> None:
        with_another(world)
        await scenario(world)

    play(whole, idle_unload_seconds=60, max_loaded=3)


def test_what_was_unloaded_by_hand_stays_away_until_it_is_used_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=2, max_instances=2)
        async with keeping(world):
            assert numbers(world) == [0, 1]
            assert await world.registry.unload("twin")
            await look(world, 600)
            assert numbers(world) == []
            await world.registry.load("twin", Mode.GENERATE)
            await settle()
            assert numbers(world) == [0, 1]
            use = world.use("twin")
            await use.entered
            with pytest.raises(ModelBusyError):
                await world.registry.unload("twin", deadline_seconds=0.0)
            await settle()
            await look(world)
            assert numbers(world) == [0, 1], "what is in use stays, and the other one comes back"
            await use.end()
            assert await world.registry.unload("twin", deadline_seconds=0.0, force=True)
            assert numbers(world) == []

    play(scenario)


def test_what_can_not_be_loaded_at_the_start_is_tried_again_later(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=1)
        world.remote.error = ModelLoadError("the disk is away")
        async with keeping(world):
            assert (world.registry.preloading, world.remote.calls) == ([], 1)
            assert "twin lacks an instance (min_instances): the disk is away" in caplog.text
            world.remote.error = None
            await look(world, 29)
            assert world.remote.calls == 1
            await look(world, 1)
            assert numbers(world) == [0]

    play(scenario)


def test_other_bounds_count_at_once_when_the_configuration_changes(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=3)

        async def reconfigure(**bounds: int) -> None:
            world.add("twin", **bounds)
            world.registry.reconfigure(world.models, world.settings())
            await settle()

        async with keeping(world):
            await full_house(world, 3)
            await reconfigure(min_instances=1, max_instances=2)
            assert (numbers(world), world.unloaded_for("replaced")) == ([0, 1], ["twin"])
            await reconfigure(min_instances=4, max_instances=4)
            assert numbers(world) == [0, 1, 2, 3]
            begun = await uses(world, 4)
            await reconfigure(max_instances=1)
            assert numbers(world) == [0]
            assert all(not client.closed for client in world.remote.clients[-2:]), "they are in use"
            await end(begun)
            await settle()
            assert sum(not client.closed for client in world.remote.clients) == 1
            await reconfigure(min_instances=1, max_instances=1)
            del world.models.all["twin"]
            await look(world, 1e9)
            await look(world, 1e9)
            assert numbers(world) == [], "nobody knows it any more"

    play(scenario)


def test_standing_instances_are_replaced_one_by_one_when_the_model_changes(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=2, max_instances=2)
        async with keeping(world):
            old = world.remote.clients[:]
            world.add("twin", min_instances=2, max_instances=2, created=5)
            world.remote.gate.clear()
            await look(world)
            assert [client.closed for client in old] == [1, 0], "one goes, the other one does the work"
            use = world.use("twin")
            await settle()
            assert not use.entered.done(), "it is idle, and new requests are for the new model"
            world.remote.gate.set()
            assert await use.entered is world.remote.clients[2]
            await settle()
            assert [client.closed for client in world.remote.clients] == [1, 1, 0, 0]
            await use.end()

    play(scenario)


def test_in_the_mode_that_it_is_not_made_for_a_model_has_no_standing_instances(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", min_instances=1, max_instances=2)
        async with keeping(world):
            begun = [world.use("twin", Mode.POOL) for _ in range(3)]
            await settle()
            modes = {status.mode: len(status.instances) for status in world.registry.status()}
            assert modes == {Mode.GENERATE: 1, Mode.POOL: 2}
            await end(begun)
            await look(world, 60)
            assert [(one.mode, one.state) for one in world.registry.status()] == [
                (Mode.GENERATE, READY),
                (Mode.POOL, UNLOADED),
            ]

    play(scenario, idle_unload_seconds=60)


def test_what_was_asked_for_at_loading_holds_until_the_last_instance_has_gone(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("twin", max_instances=2)
        await world.registry.load("twin", Mode.GENERATE, ttl_seconds=10.0, pinned=True)
        await full_house(world, 2)
        await look(world, 9)
        assert numbers(world) == [0, 1]
        await look(world, 1)
        assert numbers(world) == []
        await full_house(world, 2)
        assert [status.ttl_seconds for status in world.registry.status()] == [1800.0]
        assert not math.isinf(replace(world.registry.status()[0]).expires_in_seconds or math.inf)

    play(scenario)
