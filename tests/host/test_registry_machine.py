"""A registry under whatever order of events: loads that end when they like, requests that come, leave, are cut off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import (
    LocalLLMError,
    ModelBusyError,
    ModelLoadError,
    ModelNotLoadedError,
    ModelTooLargeError,
    OverloadedError,
    UnavailableError,
)
from localllm.contract.events import ModelLoaded, ModelUnloaded
from localllm.contract.model import MemoryUse, Mode, ModelSpec
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.states import ModelState
from localllm.host.supervisor import BreakerPolicy
from tests.host.registry_kit import GENERATE, Models, RemoteClient

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
SIZES = {"a": 3, "b": 4, "c": 6, "big": 11}
MEASURED = {"b": 5}
KEYS = [(name, GENERATE) for name in SIZES] + [("a", Mode.POOL)]
REFUSALS = (ModelNotLoadedError, ModelTooLargeError, ModelLoadError, OverloadedError, UnavailableError)
TURNS = 60  # of the event loop: more than the longest chain of what one event sets off

keys = st.sampled_from(KEYS)


class Client(RemoteClient):
    """A loaded model that knows whether anybody is inside when it is closed."""

    def __init__(self, spec: ModelSpec, mode: Mode, machine: RegistryMachine) -> None:
        size = MEASURED.get(spec.id)
        super().__init__(None if size is None else MemoryUse(size))
        self.key = (spec.id, mode)
        self._machine = machine

    async def close(self) -> None:
        inside = [one for one in self._machine.requests if one.client is self and not one.task.done()]
        assert not inside or self.key in self._machine.forced, f"{self.key} was closed while it was used"
        await asyncio.sleep(0)
        await super().close()


class Request:
    """One request: where it is, and how it ended."""

    def __init__(self, registry: ModelRegistry, key: tuple[str, Mode], options: dict[str, Any]) -> None:
        self.key = key
        self.client: object = None
        self.error: LocalLLMError | None = None
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(registry, options))

    async def _run(self, registry: ModelRegistry, options: dict[str, Any]) -> None:
        try:
            async with registry.acquire(*self.key, **options) as client:
                self.client = client
                await self.leave.wait()
        except LocalLLMError as error:
            self.error = error

    @property
    def is_answered_or_refused(self) -> bool:
        return self.task.cancelled() or self.client is not None or isinstance(self.error, REFUSALS)


class RegistryMachine(RuleBasedStateMachine):
    """Four models, one of them in two modes and one too big for the limit; loads end by rules."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.requests: list[Request] = []
        self.unloads: list[asyncio.Task[bool]] = []
        self.loader_tasks: list[asyncio.Task[None]] = []
        self.forced: set[tuple[str, Mode]] = set()
        self.loads: list[tuple[tuple[str, Mode], asyncio.Future[None]]] = []
        self.clients: list[Client] = []
        self.events: list[object] = []

    @initialize(max_loaded=st.integers(1, 3), memory=st.sampled_from([8, 10]))
    def start(self, max_loaded: int, memory: int) -> None:
        models = Models()
        models.all = {name: ModelSpec(name, "remote", meta={"bytes": size}) for name, size in SIZES.items()}
        backend = BackendSpec(
            "remote",
            frozenset(Mode),
            "client",
            connect=self.connect,
            estimate=lambda spec, mode: MemoryUse(spec.meta["bytes"]),
        )
        limits = RegistrySettings(
            Path("unused"),
            idle_unload_seconds=60,
            max_queue=6,
            max_loaded=max_loaded,
            memory_limit_bytes=memory,
            breaker=BreakerPolicy(failures=4),
        )
        self.max_loaded, self.memory = max_loaded, memory
        self.registry = ModelRegistry(models, {"remote": backend}, limits, self.events.append, lambda: self.now)

    async def connect(self, spec: ModelSpec, mode: Mode) -> Client:
        gate: asyncio.Future[None] = self.loop.create_future()
        load = ((spec.id, mode), gate)
        self.loads.append(load)
        try:
            await gate
        finally:
            self.loads.remove(load)
        self.clients.append(Client(spec, mode, self))
        return self.clients[-1]

    def run(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Let everything happen that can happen by itself, ``work`` included, which must come to its end by that."""

        async def main() -> None:
            task = None if work is None else asyncio.ensure_future(work)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert task is None or task.done(), "it waits for ever"
            if task is not None:
                task.result()

        self.loop.run_until_complete(main())

    # --- what may happen ---

    @rule(key=keys, autoload=st.booleans(), ttl=st.sampled_from([None, None, 0.0, 5.0]))
    def ask(self, key: tuple[str, Mode], autoload: bool, ttl: float | None) -> None:
        async def begin() -> None:
            self.requests.append(Request(self.registry, key, {"autoload": autoload, "ttl_seconds": ttl}))

        self.run(begin())

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.requests)).leave.set()
        self.run()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.requests)).task.cancel()
        self.run()

    @rule(key=keys)
    def everybody_leaves(self, key: tuple[str, Mode]) -> None:
        for request in self.requests:
            if request.key == key:
                request.task.cancel()
        self.run()

    @precondition(lambda self: self.loads)
    @rule(data=st.data(), how=st.sampled_from(["well", "well", "well", "memory", "broken"]))
    def load_ends(self, data: st.DataObject, how: str) -> None:
        _, gate = data.draw(st.sampled_from(self.loads))
        if how == "well":
            gate.set_result(None)
        else:
            gate.set_exception(ModelLoadError(how, detail={"reason": how}))
        self.run()

    @rule(key=keys, force=st.booleans())
    def unload(self, key: tuple[str, Mode], force: bool) -> None:
        if force:
            self.forced.add(key)
        self.unloads.append(
            self.loop.create_task(self.registry.unload(*key, deadline_seconds=0.0 if force else 3600.0, force=force))
        )
        self.run()
        self.forced.discard(key)

    @precondition(lambda self: self.unloads)
    @rule(data=st.data())
    def whoever_unloads_leaves(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.unloads)).cancel()
        self.run()

    @rule(key=keys, pinned=st.booleans())
    def pin(self, key: tuple[str, Mode], pinned: bool) -> None:
        loaded = [one for one in self.registry.status() if (one.id, one.mode) == key and one.state is ModelState.READY]
        if loaded:
            self.loader_tasks.append(self.loop.create_task(self.registry.load(*key, pinned=pinned)))
            self.run()

    @rule(seconds=st.sampled_from([1.0, 4.0, 30.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.run(self.registry.unload_idle())

    # --- what must always hold ---

    @invariant()
    def no_more_is_loaded_than_there_is_room_for(self) -> None:
        alive = [client.key for client in self.clients if not client.closed]
        loading = [key for key, _ in self.loads]
        assert len({*alive, *loading}) == len(alive) + len(loading), "nothing is loaded twice"
        assert len(alive) + len(loading) <= self.max_loaded
        held = self.registry.room.held
        assert {*alive, *loading} <= {key.model for key in held}
        if len(held) > 1 and not any(key.model_id in MEASURED for key in held):
            assert sum(held.values()) <= self.memory

    @invariant()
    def counts_are_those_of_the_requests(self) -> None:
        open_now = [one for one in self.requests if not one.task.done()]
        inside = [one.key for one in open_now if one.client is not None]
        outside = [one.key for one in open_now if one.client is None]
        if any(not task.done() for task in self.loader_tasks):
            return  # a pin that came too late waits for a load, and counts too
        for status in self.registry.status():
            key = (status.id, status.mode)
            assert (status.in_flight, status.waiting) == (inside.count(key), outside.count(key)), key

    @invariant()
    def nothing_waits_for_room_for_nobody(self) -> None:
        assert all(one.waiting for one in self.registry.status() if one.state is ModelState.QUEUED)

    @invariant()
    def a_place_is_not_kept_for_nobody(self) -> None:
        """Whoever is idle and may go does not keep others waiting, unless more than that one would have to go."""
        if not self.registry.room.crowded or self.max_loaded > 1:
            return
        for status in self.registry.status():
            idle = status.state is ModelState.READY and not (status.in_flight or status.waiting or status.pinned)
            assert not idle, f"{status.id} keeps the only place"

    def teardown(self) -> None:
        """Everybody finishes, and every load ends well: then all have been answered or refused, and nothing is held."""
        everybody = [*(request.task for request in self.requests), *self.loader_tasks]
        for _ in range(3 * (len(everybody) + len(KEYS))):
            for request in self.requests:
                request.leave.set()
            for _, gate in list(self.loads):
                if not gate.done():
                    gate.set_result(None)
            self.run()
            if all(task.done() for task in everybody):
                break
        assert all(task.done() for task in everybody), "somebody waits for ever"
        self.run()
        for task in (*self.unloads, *self.loader_tasks):
            assert task.done()
            assert (
                task.cancelled()
                or task.exception() is None
                or isinstance(task.exception(), (ModelBusyError, *REFUSALS))
            )
        assert all(request.is_answered_or_refused for request in self.requests)
        assert not self.registry.room.crowded
        assert all((one.in_flight, one.waiting) == (0, 0) for one in self.registry.status())
        self.run(self.registry.close())
        assert all(client.closed == 1 for client in self.clients)
        assert not self.registry.room.held
        loaded, unloaded = (sum(isinstance(one, kind) for one in self.events) for kind in (ModelLoaded, ModelUnloaded))
        assert loaded == unloaded == len(self.clients)
        self.loop.close()


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=1000 if FULL else 100, stateful_step_count=60, deadline=None)
