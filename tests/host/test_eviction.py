"""Models share too little room: the scenarios of a router that swaps, and what keeps a hot model from starving one."""

from __future__ import annotations

import asyncio

import pytest

from localllm.contract.errors import ModelLoadError, ModelTooLargeError, UnavailableError
from localllm.contract.events import ModelLoaded
from localllm.contract.model import Mode
from localllm.host.states import ModelState
from tests.event_loop import settle
from tests.host.registry_kit import GENERATE, Play, World


def test_a_busy_model_is_not_evicted_and_the_other_waits(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        busy = world.use("a")
        await busy.entered
        queued = world.use("b")
        await settle()
        assert world.states() == {"a": "ready", "b": "queued"}
        assert world.remote.clients[0].closed == 0
        await busy.end()
        await queued.entered
        assert world.loaded() == ["b"]
        assert world.unloaded_for("evicted") == ["a"]
        await queued.end()
        world.check_counts()

    play(scenario, max_loaded=1)


def test_requests_for_one_model_share_one_place_and_one_eviction(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", "c")
        await world.touch("a", "b")
        busy = world.use("a")
        await busy.entered
        waiting = [world.use("c") for _ in range(3)]
        for use in waiting:
            await use.entered
        await busy.end()
        for use in waiting:
            await use.end()
        await settle()
        assert world.loaded() == ["a", "c"], "only one had to go, and that was the idle one"
        assert world.unloaded_for("evicted") == ["b"]
        world.check_counts()

    play(scenario, max_loaded=2)


def test_a_client_that_leaves_the_queue_costs_no_running_model_its_place(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        busy = world.use("a")
        await busy.entered
        queued = world.use("b")
        await settle()
        queued.task.cancel()
        await settle()
        await busy.end()
        await settle()
        assert world.states() == {"a": "ready", "b": "unloaded"}
        assert world.remote.calls == 1
        world.check_counts()
        await world.touch("b")
        assert world.loaded() == ["b"]

    play(scenario, max_loaded=1)


def test_a_client_that_leaves_the_queue_takes_nobody_with_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", "c")
        busy = world.use("a")
        await busy.entered
        leaving, staying, behind = world.use("b"), world.use("b"), world.use("c")
        await settle()
        leaving.task.cancel()
        await settle()
        await busy.end()
        await staying.entered
        assert not behind.entered.done()
        await staying.end()
        await behind.entered
        await behind.end()
        assert [event.model for event in world.events if isinstance(event, ModelLoaded)] == ["a", "b", "c"]
        world.check_counts()

    play(scenario, max_loaded=1)


def test_the_queue_is_served_in_the_order_of_arrival(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", "c", "d")
        busy = world.use("a")
        await busy.entered
        queued = {name: world.use(name) for name in ("c", "b", "d")}
        await settle()
        await busy.end()
        for use in queued.values():
            await use.entered
            assert sum(one.entered.done() and not one.leave.is_set() for one in queued.values()) == 1
            await use.end()
        assert [event.model for event in world.events if isinstance(event, ModelLoaded)] == ["a", "c", "b", "d"]
        world.check_counts()

    play(scenario, max_loaded=1)


def test_two_waiters_share_one_eviction_and_both_are_served(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", "c")
        await world.touch("a")
        first, second = world.use("b"), world.use("c")
        await first.entered
        assert world.unloaded_for("evicted") == ["a"]
        await first.end()
        await second.entered
        await second.end()
        assert world.loaded() == ["c"]
        world.check_counts()

    play(scenario, max_loaded=1)


def test_whoever_waited_for_a_load_gets_in_before_the_model_may_go_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        world.remote.gate.clear()
        first, second = world.use("a"), world.use("b")
        await settle()
        world.remote.gate.set()
        await first.entered
        await settle()
        assert world.remote.clients[0].closed == 0
        await first.end()
        await second.entered
        await second.end()

    play(scenario, max_loaded=1)


def test_a_hot_model_does_not_starve_one_that_waits(play: Play) -> None:
    """A B A A C ...: new requests for A pass B while its patience lasts; then they come after it."""

    async def scenario(world: World) -> None:
        world.add("a", "b", "c")
        hot = world.use("a")
        await hot.entered
        waiting = world.use("b")
        await settle()
        world.now += 4.9
        overtaking = world.use("a")
        await overtaking.entered
        third = world.use("c")
        world.now += 0.1
        late = world.use("a")
        await settle()
        assert not late.entered.done(), "B has waited for five seconds"
        assert world.states()["a"] == "draining"
        assert world.remote.clients[0].closed == 0, "nobody is cut off"
        for use in (hot, overtaking):
            await use.end()
        order = {"b": waiting, "c": third, "a": late}
        for use in order.values():
            await use.entered
            await use.end()
        assert [event.model for event in world.events if isinstance(event, ModelLoaded)] == ["a", *order]
        world.check_counts()

    play(scenario, max_loaded=1, patience_seconds=5.0)


def test_requests_without_end_for_two_models_take_turns(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        served: list[str] = []

        async def ask_for_ever(name: str) -> None:
            while len(served) < 60:
                use = world.use(name)
                await use.entered
                served.append(name)
                world.now += 1
                await settle()
                await use.end()

        async with asyncio.timeout(20):
            await asyncio.gather(*(ask_for_ever(name) for name in ("a", "a", "a", "b")))
        assert served.count("b") >= 5
        world.check_counts()

    play(scenario, max_loaded=1, patience_seconds=5.0)


def test_a_pinned_model_stays_and_the_others_make_room(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", pinned=True)
        world.add("b", "c")
        await world.touch("a", "b", "c")
        assert world.loaded() == ["a", "c"]
        await world.registry.load("c", GENERATE, pinned=True)
        with pytest.raises(
            UnavailableError, match=r"'b'.*beside the pinned a, c.*at most 2 loaded \(models\.max_loaded\)"
        ):
            await world.use("b").entered
        assert world.states()["b"] == "failed"
        await world.registry.load("c", GENERATE, pinned=False)
        await world.touch("b")
        assert world.loaded() == ["a", "b"]
        world.check_counts()

    play(scenario, max_loaded=2)


def test_a_pin_that_came_with_a_load_ends_with_an_unload(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        await world.registry.load("a", GENERATE, pinned=True)
        await world.registry.unload("a")
        await world.touch("a", "b")
        assert world.loaded() == ["b"]

    play(scenario, max_loaded=1)


def test_a_file_in_two_modes_takes_two_places(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.touch("chat")
        world.now += 1
        pooling = world.use("chat", Mode.POOL)
        await pooling.entered
        assert [(one.mode, one.state) for one in world.registry.status()] == [
            (GENERATE, ModelState.UNLOADED),
            (Mode.POOL, ModelState.READY),
        ]
        await pooling.end()

    play(scenario, max_loaded=1)


def test_memory_decides_by_estimates_and_then_by_what_was_measured(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", meta={"bytes": 40, "measured": 60})
        world.add("c", meta={"bytes": 40})
        await world.touch("a")
        (status,) = world.registry.status()
        assert (status.memory_estimated_bytes, status.memory_bytes) == (40, 60)
        await world.touch("c")
        assert world.loaded() == ["a", "c"]
        await world.touch("b")
        await settle()
        assert world.loaded() == ["b", "c"], "a was the least recently used"
        world.now += 1
        await world.touch("a")
        assert world.loaded() == ["a", "c"], "it counts for the 60 that it proved to take, beside the 40 of c"
        world.check_counts()

    play(scenario, memory_limit_bytes=100)


def test_a_model_that_proves_to_be_bigger_than_expected_makes_idle_ones_go(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", meta={"bytes": 50})
        world.add("b", meta={"bytes": 50, "measured": 80})
        await world.touch("a", "b")
        await settle()
        assert world.loaded() == ["b"]
        world.check_counts()

    play(scenario, memory_limit_bytes=100)


def test_a_model_bigger_than_the_whole_limit_is_refused_with_numbers(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", meta={"bytes": 2**30})
        world.add("huge", meta={"bytes": 3 * 2**30})
        await world.touch("a")
        for _ in range(4):
            with pytest.raises(ModelTooLargeError, match=r"3\.0 GiB.*2\.0 GiB.*models\.memory_limit_gib") as caught:
                await world.use("huge").entered
        assert caught.value.detail == {"needed_bytes": 3 * 2**30, "limit_bytes": 2 * 2**30}
        assert world.loaded() == ["a"], "and nobody went for it"
        world.check_counts()

    play(scenario, memory_limit_bytes=2 * 2**30)


def test_without_a_limit_that_somebody_set_a_huge_model_is_loaded_by_itself(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", meta={"bytes": 2**30})
        world.add("huge", meta={"bytes": 2**60})
        await world.touch("a", "huge")
        assert world.loaded() == ["huge"]
        await world.touch("a")
        assert world.loaded() == ["a"]

    play(scenario)


def test_idle_models_go_when_a_load_lacks_memory_and_it_is_tried_once_more(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b", "c")
        world.add("kept", pinned=True)
        await world.touch("a", "b", "kept")
        busy = world.use("b")
        await busy.entered
        world.remote.errors = [ModelLoadError("no more", detail={"reason": "memory"})]
        await world.touch("c")
        assert world.loaded() == ["b", "c", "kept"]
        assert world.unloaded_for("evicted") == ["a"]
        await busy.end()
        world.check_counts()

    play(scenario)


def test_a_load_that_lacks_memory_again_is_tried_with_half_of_the_layers_on_the_gpu(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        world.add("a")
        world.add("big", settings={"n_gpu_layers": -1, "threads": 2}, meta={"n_layer": 32})
        await world.touch("a")
        world.remote.errors = [ModelLoadError("no more", detail={"reason": "memory"}) for _ in range(2)]
        await world.touch("big")
        asked = [spec.settings.get("n_gpu_layers") for spec in world.remote.asked[1:]]
        assert asked == [-1, -1, 16]
        assert world.remote.asked[-1].settings["threads"] == 2
        calls = world.remote.calls
        await world.touch("big")
        assert world.remote.calls == calls, "it is loaded, whatever it was loaded with"

    play(scenario)
    assert "n_gpu_layers = 16" in caplog.text


def test_a_load_that_lacks_memory_whatever_is_tried_fails_typed_and_counts_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ModelLoadError("std::bad_alloc")
        for _ in range(3):
            with pytest.raises(ModelLoadError, match="bad_alloc"):
                await world.use().entered
        with pytest.raises(UnavailableError, match="failed 3 times"):
            await world.use().entered
        world.check_counts()

    play(scenario)


def test_a_failed_load_gives_its_place_to_the_next(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        world.remote.gate.clear()
        first, second = world.use("a"), world.use("b")
        await settle()
        world.remote.errors = [ModelLoadError("broken")]
        world.remote.gate.set()
        with pytest.raises(ModelLoadError, match="broken"):
            await first.entered
        await second.entered
        await second.end()
        world.check_counts()

    play(scenario, max_loaded=1)


def test_higher_limits_by_a_new_configuration_let_waiters_in_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        busy = world.use("a")
        await busy.entered
        waiting = world.use("b")
        await settle()
        world.registry.reconfigure(world.models, world.settings(max_loaded=2))
        await waiting.entered
        for use in (busy, waiting):
            await use.end()

    play(scenario, max_loaded=1)


def test_draining_the_server_lets_those_in_the_queue_have_their_turn(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        busy = world.use("a")
        await busy.entered
        waiting = world.use("b")
        await settle()
        draining = asyncio.create_task(world.registry.drain(30))
        await settle()
        await busy.end()
        await waiting.entered
        await waiting.end()
        await draining
        world.check_counts()
        assert world.loaded() == []

    play(scenario, max_loaded=1)


def test_closing_ends_the_queue(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("a", "b")
        busy = world.use("a")
        await busy.entered
        waiting = world.use("b")
        await settle()
        await world.registry.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await waiting.entered
        await busy.end()
        world.check_counts()

    play(scenario, max_loaded=1)
