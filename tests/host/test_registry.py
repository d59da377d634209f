"""The life cycle of models, with a backend of kind "client" that answers to the test instead of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import (
    LocalLLMError,
    ModelFileError,
    ModelLoadError,
    ModelNotFoundError,
    ModelUnsupportedError,
    OverloadedError,
    UnavailableError,
)
from localllm.contract.events import Event, ModelLoaded, ModelUnloaded
from localllm.contract.generation import GenerateEvent, GenerateRequest, Started
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.states import ModelState

GENERATE = Mode.GENERATE


class RemoteClient:
    """A ``ModelClient`` that remembers how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.info = ModelInfo(128, 256)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        yield Started(1)

    async def close(self) -> None:
        self.closed += 1


class Remote:
    """A backend whose ``connect`` waits for the gate, then fails with ``error`` or gives a client."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.calls = 0
        self.clients: list[RemoteClient] = []

    async def connect(self, spec: ModelSpec, mode: Mode) -> RemoteClient:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.clients.append(RemoteClient())
        return self.clients[-1]


class Models:
    """A catalogue of four models; ``chat`` is the default."""

    def __init__(self) -> None:
        self.all = {
            spec.id: spec
            for spec in (
                ModelSpec("bert", "remote", ModelKind.EMBEDDING),
                ModelSpec("chat", "remote"),
                ModelSpec("judge", "remote", ModelKind.RERANKER),
                ModelSpec("orphan", "nobody"),
            )
        }
        self.default: str | None = "chat"

    def specs(self) -> Mapping[str, ModelSpec]:
        return self.all

    def resolve(self, name: str | None) -> ModelSpec:
        try:
            return self.all[name or "chat"]
        except KeyError:
            raise ModelNotFoundError(f"There is no model {name!r}.", param="model") from None


class World:
    """One registry and everything around it."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.now = 100.0
        self.models = Models()
        self.remote = Remote()
        self.events: list[Event] = []
        self.unloaded = asyncio.Event()
        backend = BackendSpec("remote", frozenset(Mode), "client", connect=self.remote.connect)
        self.registry = ModelRegistry(
            self.models,
            {"remote": backend},
            RegistrySettings(tmp_path, **settings),
            self._note,
            lambda: self.now,
        )

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ModelUnloaded):
            self.unloaded.set()

    @property
    def state(self) -> ModelState:
        (status,) = self.registry.status()
        return status.state

    def use(self) -> Use:
        return Use(self.registry)


class Use:
    """One request: acquires, says so, and holds on until it is told to leave."""

    def __init__(self, registry: ModelRegistry) -> None:
        self.entered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(registry))

    async def _run(self, registry: ModelRegistry) -> None:
        try:
            async with registry.acquire("chat", GENERATE) as client:
                self.entered.set_result(client)
                await self.leave.wait()
        except LocalLLMError as error:
            self.entered.set_exception(error)

    async def end(self) -> None:
        self.leave.set()
        await self.task


async def settle() -> None:
    """Let everything run that can run without the outside."""
    for _ in range(20):
        await asyncio.sleep(0)


Scenario = Callable[[World], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def play(scenario: Scenario, **settings: Any) -> None:
        async def run() -> None:
            world = World(tmp_path, **settings)
            await scenario(world)
            world.remote.gate.set()
            await world.registry.close()
            assert all(status.state is ModelState.UNLOADED or status.error for status in world.registry.status())

        asyncio.run(run())

    return play


Play = Callable[..., None]


def test_names_resolve_or_say_what_is_wrong(play: Play) -> None:
    async def scenario(world: World) -> None:
        registry = world.registry
        assert registry.resolve(None, GENERATE).id == "chat"
        with pytest.raises(ModelNotFoundError):
            registry.resolve("nobody", GENERATE)
        for name, word in (("bert", "embedding"), ("judge", "reranker")):
            with pytest.raises(ModelUnsupportedError, match=word) as caught:
                registry.resolve(name, GENERATE)
            assert caught.value.param == "model"
            assert registry.resolve(name, Mode.POOL).id == name
        with pytest.raises(ModelUnsupportedError, match=r"engine 'nobody'.*remote"):
            registry.resolve("orphan", GENERATE)
        assert [spec.id for spec in registry.list_specs()] == ["chat", "bert", "judge", "orphan"]
        assert registry.status() == []

    play(scenario)


def test_a_mode_that_the_engine_lacks_is_refused(tmp_path: Path) -> None:
    backend = BackendSpec("remote", frozenset({GENERATE}), factory="a:b")
    registry = ModelRegistry(Models(), {"remote": backend}, RegistrySettings(tmp_path), lambda event: None, lambda: 0.0)
    with pytest.raises(ModelUnsupportedError, match="'bert' can't be loaded to pool"):
        registry.resolve("bert", Mode.POOL)


def test_one_load_however_many_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        uses = [world.use() for _ in range(50)]
        await settle()
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.in_flight) == (ModelState.LOADING, 50, 0)
        world.remote.gate.set()
        clients = {id(await use.entered) for use in uses}
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.in_flight) == (ModelState.READY, 0, 50)
        assert (world.remote.calls, len(clients)) == (1, 1)
        for use in uses:
            await use.end()
        assert world.registry.status()[0].in_flight == 0
        assert world.events == [ModelLoaded("chat", 0.0)]

    play(scenario)


def test_a_waiter_that_gives_up_ends_neither_the_load_nor_the_others(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        first, second = world.use(), world.use()
        await settle()
        first.task.cancel()
        await settle()
        world.remote.gate.set()
        assert await second.entered is world.remote.clients[0]
        await second.end()

    play(scenario)


def test_a_load_that_everybody_left_finishes_and_serves_the_next(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        only = world.use()
        await settle()
        only.task.cancel()
        await settle()
        assert world.state is ModelState.LOADING
        world.remote.gate.set()
        await settle()
        assert world.state is ModelState.READY
        late = world.use()
        await late.entered
        assert world.remote.calls == 1
        await late.end()

    play(scenario)


def test_a_failed_load_fails_each_waiter_with_an_error_of_its_own_and_is_tried_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ModelFileError("tensor 3 is cut off")
        uses = [world.use() for _ in range(3)]
        outcomes = await asyncio.gather(*(use.entered for use in uses), return_exceptions=True)
        assert [(type(error), str(error)) for error in outcomes] == [(ModelFileError, "tensor 3 is cut off")] * 3
        assert len(set(map(id, outcomes))) == 3
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.error) == (ModelState.FAILED, 0, "tensor 3 is cut off")
        world.remote.error = None
        again = world.use()
        await again.entered
        (status,) = world.registry.status()
        assert (status.state, status.error, world.remote.calls) == (ModelState.READY, None, 2)
        await again.end()

    play(scenario)


def test_a_backend_that_raises_what_it_should_not_is_a_load_error_that_names_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ZeroDivisionError("division by zero")
        with pytest.raises(ModelLoadError, match=r"'remote'.*'chat': ZeroDivisionError"):
            await world.use().entered

    play(scenario)


def test_a_backend_that_never_connects_is_given_up(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        with pytest.raises(ModelLoadError, match=r"within 0\.05 seconds"):
            await world.use().entered

    play(scenario, load_timeout_seconds=0.05)


def test_three_failures_open_the_breaker_and_a_probe_after_the_rest_closes_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ModelLoadError("no memory")
        for _ in range(3):
            with pytest.raises(ModelLoadError):
                await world.use().entered
        with pytest.raises(UnavailableError, match="no memory") as caught:
            await world.use().entered
        assert caught.value.detail == {"retry_after_seconds": 10}
        assert world.remote.calls == 3
        world.remote.error = None
        world.now += 10
        use = world.use()
        await use.entered
        await use.end()

    play(scenario)


def test_a_full_model_refuses_the_next_request_at_once_while_loading_and_while_busy(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        uses = [world.use(), world.use()]
        await settle()
        with pytest.raises(OverloadedError, match="0 requests running and 2 waiting") as caught:
            await world.use().entered
        assert caught.value.detail == {"retry_after_seconds": 1}
        world.remote.gate.set()
        for use in uses:
            await use.entered
        with pytest.raises(OverloadedError, match="2 requests running"):
            await world.use().entered
        await uses[0].end()
        third = world.use()
        await third.entered
        for use in (uses[1], third):
            await use.end()

    play(scenario, max_queue=2)


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


def test_unload_waits_no_longer_than_its_deadline(play: Play) -> None:
    async def scenario(world: World) -> None:
        stuck = world.use()
        await stuck.entered
        await world.registry.unload("chat", deadline_seconds=0.05)
        assert world.remote.clients[0].closed == 1
        assert world.state is ModelState.UNLOADED
        await stuck.end()

    play(scenario)


def test_unloading_what_is_not_loaded_does_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.registry.unload("chat")
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
