"""Models are let go when idle, when asked, when replaced and at shutdown, and never under somebody who uses them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from unittest.mock import Mock

import pytest

from localllm.contract.errors import ModelBusyError, UnavailableError
from localllm.contract.events import ModelLoaded, ModelUnloaded
from localllm.contract.model import Mode
from localllm.host.states import ModelState
from tests.event_loop import settle
from tests.host.registry_kit import GENERATE, Play, RemoteClient, World


def test_idle_models_go_after_their_time_and_busy_ones_stay(play: Play) -> None:
    async def scenario(world: World) -> None:
        use = world.use()
        await use.entered
        world.now += 10_000
        await world.registry.unload_idle()
        assert world.state is ModelState.READY, "it was busy"
        await use.end()
        world.now += 59
        await world.registry.unload_idle()
        assert world.state is ModelState.READY, "the time counts from the last use"
        world.now += 1
        await world.registry.unload_idle()
        assert world.state is ModelState.UNLOADED
        assert world.remote.clients[0].closed == 1
        assert world.events[-1] == ModelUnloaded("chat", "idle")
        again = world.use()
        assert await again.entered is world.remote.clients[1]
        await again.end()

    play(scenario, idle_unload_seconds=60)


def test_a_request_that_comes_together_with_the_idle_unload_is_not_cut(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = world.use()
        await first.entered
        await first.end()
        world.now += 60
        second = world.use()
        unloading = asyncio.create_task(world.registry.unload_idle())
        client = await second.entered
        await unloading
        assert isinstance(client, RemoteClient)
        assert client.closed == 0
        assert world.state is ModelState.READY
        await second.end()

    play(scenario, idle_unload_seconds=60)


def test_zero_minutes_keep_a_model_for_ever(play: Play) -> None:
    async def scenario(world: World) -> None:
        use = world.use()
        await use.entered
        await use.end()
        world.now += 1e9
        await world.registry.unload_idle()
        assert world.state is ModelState.READY

    play(scenario, idle_unload_seconds=0)


def test_the_background_task_unloads_idle_models(play: Play) -> None:
    async def scenario(world: World) -> None:
        background = asyncio.create_task(world.registry.run())
        use = world.use()
        await use.entered
        world.now += 5
        await use.end()
        world.now += 5
        async with asyncio.timeout(20):
            await world.unloaded.wait()
        assert world.state is ModelState.UNLOADED
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background

    play(scenario, idle_unload_seconds=5)


def test_unload_drains_and_later_requests_wait_for_a_fresh_load(play: Play) -> None:
    async def scenario(world: World) -> None:
        busy = world.use()
        await busy.entered
        unloading = asyncio.create_task(world.registry.unload("chat"))
        await settle()
        assert world.state is ModelState.DRAINING
        late = world.use()
        await settle()
        assert not late.entered.done()
        assert world.remote.clients[0].closed == 0, "somebody uses it"
        await busy.end()
        await unloading
        assert await late.entered is world.remote.clients[1]
        assert world.remote.clients[0].closed == 1
        assert [type(event) for event in world.events] == [ModelLoaded, ModelUnloaded, ModelLoaded]
        await late.end()

    play(scenario)


def test_an_unload_that_is_forced_waits_no_longer_than_its_deadline(play: Play) -> None:
    async def scenario(world: World) -> None:
        stuck = world.use()
        await stuck.entered
        assert await world.registry.unload("chat", deadline_seconds=0.05, force=True)
        assert world.remote.clients[0].closed == 1
        assert world.state is ModelState.UNLOADED
        await stuck.end()

    play(scenario)


def test_an_unload_that_is_not_done_in_time_is_refused_and_the_model_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        stuck = world.use()
        await stuck.entered
        unloading = asyncio.create_task(world.registry.unload("chat", deadline_seconds=2))
        await settle()
        late = world.use()
        await settle()
        assert not late.entered.done(), "the door is closed while it drains"
        with pytest.raises(ModelBusyError, match=r"1 requests in flight.*2 seconds") as caught:
            await unloading
        assert caught.value.detail == {"in_flight": 1}
        assert await late.entered is world.remote.clients[0], "and open again"
        assert world.remote.clients[0].closed == 0
        for use in (stuck, late):
            await use.end()
        assert world.remote.calls == 1

    play(scenario)


def test_whoever_asks_for_an_unload_and_leaves_leaves_the_model_as_it_was(play: Play) -> None:
    async def scenario(world: World) -> None:
        busy = world.use()
        await busy.entered
        unloading = asyncio.create_task(world.registry.unload("chat", deadline_seconds=3600))
        await settle()
        unloading.cancel()
        await settle()
        late = world.use()
        assert await late.entered is world.remote.clients[0]
        for use in (busy, late):
            await use.end()
        assert world.state is ModelState.READY

    play(scenario)


def test_a_forced_unload_overtakes_a_patient_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        stuck = world.use()
        await stuck.entered
        patient = asyncio.create_task(world.registry.unload("chat", deadline_seconds=3600))
        await settle()
        assert await world.registry.unload("chat", deadline_seconds=0.0, force=True)
        assert await patient
        assert world.remote.clients[0].closed == 1
        await stuck.end()

    play(scenario)


def test_unloading_waits_for_a_load_that_is_under_way_and_for_those_who_wait_for_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        waiting = world.use()
        await settle()
        unloading = asyncio.create_task(world.registry.unload("chat"))
        await settle()
        world.remote.gate.set()
        assert await waiting.entered is world.remote.clients[0]
        await settle()
        assert not unloading.done()
        await waiting.end()
        assert await unloading
        assert world.state is ModelState.UNLOADED

    play(scenario)


def test_unloading_gives_up_on_a_load_that_takes_too_long_unless_it_is_forced(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        waiting = world.use()
        await settle()
        with pytest.raises(ModelBusyError, match="still being loaded"):
            await world.registry.unload("chat", deadline_seconds=0.01)
        assert world.state is ModelState.LOADING
        assert await world.registry.unload("chat", deadline_seconds=0.0, force=True)
        with pytest.raises(UnavailableError, match="unloaded while it was being loaded"):
            await waiting.entered
        assert world.state is ModelState.UNLOADED
        assert world.remote.clients == []

    play(scenario)


def test_unloading_what_is_not_loaded_does_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert not await world.registry.unload("chat")
        assert world.events == []

    play(scenario)


def test_a_changed_file_under_the_old_name_is_loaded_again_once_nobody_uses_the_old_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = world.use()
        await first.entered
        world.models.all["chat"] = replace(world.models.all["chat"], created=7)
        second = world.use()
        assert await second.entered is world.remote.clients[0], "the old one is in use"
        for use in (first, second):
            await use.end()
        third = world.use()
        assert await third.entered is world.remote.clients[1]
        assert world.remote.clients[0].closed == 1
        await third.end()
        world.models.all["chat"] = replace(world.models.all["chat"], aliases=("talk",))
        fourth = world.use()
        assert await fourth.entered is world.remote.clients[1], "an alias changes nothing"
        await fourth.end()

    play(scenario)


def test_a_file_with_the_time_of_the_one_before_is_another_file_all_the_same(play: Play) -> None:
    """Copies may keep the time of their original, and two may come within a second."""

    async def scenario(world: World) -> None:
        for size in (1, 2):
            world.models.all["chat"] = replace(world.models.all["chat"], created=7, meta={"size": size})
            use = world.use()
            assert await use.entered is world.remote.clients[-1]
            await use.end()
        assert [spec.meta["size"] for spec in world.remote.asked] == [1, 2]

    play(scenario)


def test_what_is_only_shown_of_a_model_does_not_load_it_again(play: Play) -> None:
    """An adapter or a projector that is put beside its file, for instance; settings would name it."""

    async def scenario(world: World) -> None:
        for meta in ({"size": 5}, {"size": 5, "adapters": ["new.gguf"], "projector": "mmproj.gguf", "name": "Demo"}):
            world.models.all["chat"] = replace(world.models.all["chat"], meta=meta)
            use = world.use()
            assert await use.entered is world.remote.clients[0]
            await use.end()
        world.models.all["chat"] = replace(world.models.all["chat"], settings={"lora": [{"path": "new.gguf"}]})
        use = world.use()
        assert await use.entered is world.remote.clients[1]
        await use.end()

    play(scenario)


def test_a_file_that_changes_just_as_its_load_begins_is_not_mistaken_for_the_one_before(play: Play) -> None:
    async def scenario(world: World) -> None:
        old = world.models.all["chat"]
        world.models.resolve = Mock(side_effect=[old, replace(old, created=7), old])  # type: ignore[method-assign]
        world.remote.gate.clear()
        uses = [world.use(), world.use()]
        await settle()
        uses.append(world.use())
        await settle()
        world.remote.gate.set()
        for use in uses:
            await use.entered
            await use.end()
        assert world.remote.asked[-1] == old

    play(scenario)


def test_draining_lets_requests_finish_and_refuses_new_ones(play: Play) -> None:
    async def scenario(world: World) -> None:
        busy = world.use()
        await busy.entered
        draining = asyncio.create_task(world.registry.drain(30))
        await settle()
        with pytest.raises(UnavailableError, match="shutting down"):
            await world.use().entered
        assert not draining.done()
        await busy.end()
        await draining
        assert world.remote.clients[0].closed == 1
        assert world.events[-1] == ModelUnloaded("chat", "shutdown")
        with pytest.raises(UnavailableError, match="shutting down"):
            await world.use().entered
        with pytest.raises(UnavailableError, match="shutting down"):
            async with world.registry.acquire("bert", Mode.POOL):
                raise AssertionError("a model was loaded while the server goes")

    play(scenario)


def test_draining_gives_those_who_wait_for_a_load_their_turn(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        waiting = world.use()
        await settle()
        draining = asyncio.create_task(world.registry.drain(30))
        await settle()
        world.remote.gate.set()
        assert await waiting.entered is world.remote.clients[0]
        assert world.remote.clients[0].closed == 0
        await waiting.end()
        await draining
        assert world.remote.clients[0].closed == 1

    play(scenario)


def test_closing_ends_a_load_that_is_under_way(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        waiting = world.use()
        await settle()
        await world.registry.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await waiting.entered
        assert world.state is ModelState.UNLOADED
        assert world.remote.clients == []

    play(scenario)


def test_closing_hurries_an_unload_that_waits_for_a_request(play: Play) -> None:
    async def scenario(world: World) -> None:
        stuck, late = world.use(), None
        await stuck.entered
        unloading = asyncio.create_task(world.registry.unload("chat", deadline_seconds=3600))
        await settle()
        late = world.use()
        await settle()
        await world.registry.close()
        await unloading
        assert world.remote.clients[0].closed == 1
        with pytest.raises(UnavailableError):
            await late.entered
        assert world.remote.calls == 1, "nothing is loaded while the server goes"
        await stuck.end()
        await world.registry.close()

    play(scenario)


def test_one_file_in_two_modes_is_two_loads(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with (
            world.registry.acquire("chat", GENERATE) as writer,
            world.registry.acquire("chat", Mode.POOL) as pooler,
        ):
            assert writer is not pooler
        assert sorted(status.mode for status in world.registry.status()) == [Mode.GENERATE, Mode.POOL]

    play(scenario)
