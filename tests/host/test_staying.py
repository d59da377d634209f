"""How long models stay: as configured, as asked for at loading, as the last request says; and what is never loaded."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress

import pytest

from localllm.contract.errors import LocalLLMError, ModelLoadError, ModelNotLoadedError
from localllm.contract.events import ModelUnloaded
from localllm.contract.model import MemoryUse, Mode
from localllm.host.states import ModelState
from tests.event_loop import settle
from tests.host.registry_kit import GENERATE, Play, World


async def is_gone_after(world: World, seconds: float) -> bool:
    """Whether the only loaded model is let go when ``seconds`` pass, and not a moment before."""
    world.now += seconds - 0.5
    await world.registry.unload_idle()
    if not world.loaded():
        return False
    world.now += 0.5
    await world.registry.unload_idle()
    return not world.loaded()


def test_a_model_has_a_time_of_its_own(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("brief", ttl_seconds=10.0)
        world.add("lasting", ttl_seconds=0.0)
        world.add("pinned", pinned=True)
        world.add("pinned for a while", pinned=True, ttl_seconds=20.0)
        for name, seconds in (("brief", 10), ("chat", 60), ("pinned for a while", 20)):
            await world.touch(name)
            assert await is_gone_after(world, seconds), name
        await world.touch("lasting", "pinned")
        world.now += 1e9
        await world.registry.unload_idle()
        assert world.loaded() == ["lasting", "pinned"]

    play(scenario, idle_unload_seconds=60)


def test_a_request_says_how_long_the_model_stays_after_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.registry.acquire("chat", GENERATE, ttl_seconds=5.0):
            pass
        assert await is_gone_after(world, 5)
        async with world.registry.acquire("chat", GENERATE, ttl_seconds=math.inf):
            pass
        world.now += 1e9
        await world.registry.unload_idle()
        assert world.loaded() == ["chat"]
        await world.touch("chat")
        assert await is_gone_after(world, 60), "the next request says nothing"

    play(scenario, idle_unload_seconds=60)


def test_a_request_may_let_the_model_go_at_once_unless_others_use_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        other = world.use()
        await other.entered
        async with world.registry.acquire("chat", GENERATE, ttl_seconds=0.0):
            pass
        await settle()
        assert world.loaded() == ["chat"]
        await other.end()
        async with world.registry.acquire("chat", GENERATE, ttl_seconds=0.0):
            pass
        await settle()
        assert world.loaded() == []
        assert world.events[-1] == ModelUnloaded("chat", "idle")

    play(scenario)


def test_loading_by_hand_says_how_long_the_model_stays_until_it_is_unloaded(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.registry.load("chat", GENERATE, ttl_seconds=7.0)
        await world.touch("chat")
        assert await is_gone_after(world, 7)
        await world.touch("chat")
        assert await is_gone_after(world, 60), "it was let go since"
        await world.registry.load("chat", GENERATE, ttl_seconds=0.0)
        world.now += 1e9
        await world.registry.unload_idle()
        assert world.loaded() == ["chat"]

    play(scenario, idle_unload_seconds=60)


def test_the_status_says_what_is_left(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.add("m", ttl_seconds=10.0, meta={"bytes": 5, "measured": 8})
        use = world.use("m")
        await use.entered
        (status,) = world.registry.status()
        assert (status.ttl_seconds, status.expires_in_seconds, status.in_flight) == (10.0, None, 1)
        assert (status.memory_estimated_bytes, status.memory_bytes) == (5, 8)
        assert status.info is not None
        assert status.info.memory == MemoryUse(8)
        await use.end()
        world.now += 4
        (status,) = world.registry.status()
        assert (status.expires_in_seconds, status.loaded_for_seconds) == (6.0, 4.0)
        await world.registry.load("m", GENERATE, ttl_seconds=0.0, pinned=True)
        (status,) = world.registry.status()
        assert (status.ttl_seconds, status.expires_in_seconds, status.pinned) == (None, None, True)
        await world.registry.unload("m")
        (status,) = world.registry.status()
        assert (status.memory_bytes, status.expires_in_seconds, status.pinned) == (None, None, False)

    play(scenario)


def test_the_background_task_wakes_up_for_a_time_shorter_than_its_pause(play: Play) -> None:
    async def scenario(world: World) -> None:
        background = asyncio.create_task(world.registry.run())
        await settle()
        world.add("brief", ttl_seconds=1.0)
        use = world.use("brief")
        await use.entered
        leaving = asyncio.create_task(use.end())
        await leaving
        world.now += 1
        async with asyncio.timeout(20):
            await world.unloaded.wait()
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background

    play(scenario)


def test_a_request_that_may_not_load_takes_only_what_is_there(play: Play) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ModelNotLoadedError, match=r"'chat' is not loaded.*/v1/models/load") as caught:
            await world.use(autoload=False).entered
        assert caught.value.param == "model"
        assert world.remote.calls == 0
        world.remote.gate.clear()
        loading, joining = world.use(), world.use(autoload=False)
        await settle()
        world.remote.gate.set()
        assert await joining.entered is await loading.entered, "a load that another one began will do"
        for use in (loading, joining):
            await use.end()
        there = world.use(autoload=False)
        await there.entered
        unloading = asyncio.create_task(world.registry.unload("chat"))
        await settle()
        late = world.use(autoload=False)
        await settle()
        await there.end()
        await unloading
        with pytest.raises(ModelNotLoadedError):
            await late.entered
        assert world.remote.calls == 1
        world.check_counts()

    play(scenario)


def test_models_are_loaded_at_the_start_each_as_it_is_meant_and_failures_stop_nothing(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        world.remote.errors = [ModelLoadError("broken on purpose")]
        world.remote.gate.clear()
        preloading = asyncio.create_task(world.registry.preload(["judge", "nobody", "bert", None]))
        await settle()
        assert list(world.registry.preloading) == ["judge", "nobody", "bert", "the default model"]
        world.remote.gate.set()
        await preloading
        assert list(world.registry.preloading) == []
        assert {(one.id, one.mode, one.state) for one in world.registry.status()} == {
            ("judge", Mode.POOL, ModelState.FAILED),
            ("bert", Mode.POOL, ModelState.READY),
            ("chat", GENERATE, ModelState.READY),
        }
        world.check_counts()

    with caplog.at_level(logging.WARNING, "localllm.host"):
        play(scenario)
    assert "broken on purpose" in caplog.text
    assert "models.preload: There is no model 'nobody'." in caplog.messages


def test_a_new_configuration_changes_times_and_limits_of_what_is_loaded(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.touch("chat")
        world.registry.reconfigure(world.models, world.settings(idle_unload_seconds=5, max_queue=1))
        assert await is_gone_after(world, 5)
        first = world.use()
        await first.entered
        with pytest.raises(LocalLLMError, match="takes no more than 1"):
            await world.use().entered
        await first.end()

    play(scenario, idle_unload_seconds=60)
