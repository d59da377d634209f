"""Models with several instances under whatever order of events: bounds hold, and nobody is refused or waits in vain."""

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
from localllm.contract.errors import LocalLLMError, ModelLoadError, OverloadedError, UnavailableError
from localllm.contract.model import MemoryUse, Mode, ModelSpec
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.states import ModelState, ModelStatus
from localllm.host.supervisor import BreakerPolicy
from tests.host.registry_kit import GENERATE, Models, RemoteClient

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
TURNS = 100  # of the event loop: more than the longest chain of what one event sets off
MAX_QUEUE = 4
PARALLEL = 2
ROOM = 6
STANDING = 2  # at most, of each model: what always has room beside the others' standing ones

names = st.sampled_from(["kept", "grown", "lone"])


class Client(RemoteClient):
    """A loaded instance that knows whether anybody is inside when it is closed."""

    def __init__(self, spec: ModelSpec, machine: InstancesMachine) -> None:
        super().__init__(MemoryUse(1), PARALLEL)
        self.name, self.version = spec.id, spec.created
        self._machine = machine

    async def close(self) -> None:
        inside = [one for one in self._machine.requests if one.client is self and not one.task.done()]
        assert not inside, f"an instance of {self.name} was closed while it was used"
        await asyncio.sleep(0)
        await super().close()


class Request:
    """One request: where it is, and how it ended."""

    def __init__(self, registry: ModelRegistry, name: str, affinity: int | None) -> None:
        self.name = name
        self.client: object = None
        self.error: LocalLLMError | None = None
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(registry, affinity))

    async def _run(self, registry: ModelRegistry, affinity: int | None) -> None:
        try:
            async with registry.acquire(self.name, GENERATE, affinity=affinity) as client:
                self.client = client
                await self.leave.wait()
        except LocalLLMError as error:
            self.error = error


class InstancesMachine(RuleBasedStateMachine):
    """``kept`` has standing instances, ``grown`` grows with its requests, ``lone`` has but one; loads end by rules."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.requests: list[Request] = []
        self.unloads: list[asyncio.Task[bool]] = []
        self.loads: list[tuple[str, asyncio.Future[None]]] = []
        self.clients: list[Client] = []
        self.models = Models()
        self.bound: dict[str, int] = {}  # what may be there: the maximum, or what was there when it was lowered
        self.warm: set[str] = set()  # those of which all standing instances are there

    @initialize(standing=st.integers(0, STANDING), maximum=st.integers(2, 3))
    def start(self, standing: int, maximum: int) -> None:
        self.models.all = {
            "kept": ModelSpec("kept", "remote", min_instances=standing, max_instances=maximum),
            "grown": ModelSpec("grown", "remote", max_instances=maximum),
            "lone": ModelSpec("lone", "remote"),
        }
        backend = BackendSpec(
            "remote", frozenset(Mode), "client", connect=self.connect, estimate=lambda *_: MemoryUse(1)
        )
        self.registry = ModelRegistry(
            self.models, {"remote": backend}, self.limits(), lambda event: None, lambda: self.now
        )
        self.background = [
            self.loop.create_task(self.registry.run()),
            self.loop.create_task(self.registry.preload([])),
        ]
        self.run()

    def limits(self) -> RegistrySettings:
        return RegistrySettings(
            Path("unused"),
            idle_unload_seconds=60,
            max_queue=MAX_QUEUE,
            max_loaded=ROOM,
            breaker=BreakerPolicy(failures=1000),
        )

    async def connect(self, spec: ModelSpec, mode: Mode) -> Client:
        gate: asyncio.Future[None] = self.loop.create_future()
        load = (spec.id, gate)
        self.loads.append(load)
        try:
            await gate
        finally:
            self.loads.remove(load)
        self.clients.append(Client(spec, self))
        return self.clients[-1]

    def run(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Let everything happen that can happen by itself."""

        async def main() -> None:
            task = None if work is None else asyncio.ensure_future(work)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if task is not None:
                task.result()

        self.loop.run_until_complete(main())

    def status(self, name: str) -> ModelStatus | None:
        return next((one for one in self.registry.status() if one.id == name), None)

    def ready(self, name: str) -> list[ModelStatus]:
        status = self.status(name)
        return [] if status is None else [one for one in status.instances if one.state is ModelState.READY]

    def is_usable(self, instance: ModelStatus) -> bool:
        """Whether it takes requests: one that was loaded from what the model no longer is does while it has some."""
        version = next(client.version for client in self.clients if client.info is instance.info)
        return instance.in_flight > 0 or version == self.models.all[instance.id].created

    def there(self, name: str) -> int:
        alive = sum(one.name == name and not one.closed for one in self.clients)
        return alive + sum(loading == name for loading, _ in self.loads)

    # --- what may happen ---

    @rule(name=names, affinity=st.sampled_from([None, 1, 2]))
    def ask(self, name: str, affinity: int | None) -> None:
        open_ones = [one for one in self.ready(name) if one.in_flight + one.waiting < MAX_QUEUE and self.is_usable(one)]

        async def begin() -> None:
            self.requests.append(Request(self.registry, name, affinity))

        self.run(begin())
        asked = self.requests[-1]
        if open_ones:
            assert asked.client is not None, f"{asked.error}: an instance could have taken it"
        if isinstance(asked.error, OverloadedError):
            assert not any(one.in_flight + one.waiting < MAX_QUEUE for one in self.ready(name))

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), cut=st.booleans())
    def end(self, data: st.DataObject, cut: bool) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if cut:
            request.task.cancel()
        else:
            request.leave.set()
        self.run()

    @rule(name=names)
    def all_end(self, name: str) -> None:
        for request in self.requests:
            if request.name == name:
                request.leave.set()
        self.run()

    @precondition(lambda self: self.loads)
    @rule(data=st.data(), well=st.sampled_from([True, True, True, False]))
    def load_ends(self, data: st.DataObject, well: bool) -> None:
        name, gate = data.draw(st.sampled_from(self.loads))
        if well:
            gate.set_result(None)
        else:
            self.warm.discard(name)  # it may be what replaces one that was let go for it
            gate.set_exception(ModelLoadError("broken", detail={"reason": "broken"}))
        self.run()

    @rule(name=names)
    def unload(self, name: str) -> None:
        self.warm.discard(name)
        self.unloads.append(self.loop.create_task(self.registry.unload(name, deadline_seconds=3600.0)))
        self.run()

    @rule(seconds=st.sampled_from([1.0, 30.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.registry.idle_changed(-1.0)
        self.run()

    @rule(standing=st.integers(0, STANDING), maximum=st.integers(2, 3), changed=st.booleans())
    def reconfigure(self, standing: int, maximum: int, changed: bool) -> None:
        for name in ("kept", "grown"):
            before = self.models.all[name]
            self.bound[name] = max(maximum, self.there(name))
            self.models.all[name] = ModelSpec(
                name,
                "remote",
                created=before.created + changed,
                min_instances=standing if name == "kept" else 0,
                max_instances=maximum,
            )
        self.warm.clear()
        self.registry.reconfigure(self.models, self.limits())
        self.run()

    # --- what must always hold ---

    @invariant()
    def never_more_than_the_maximum(self) -> None:
        for name, spec in self.models.all.items():
            self.bound[name] = max(spec.max_instances, min(self.bound.get(name, 0), self.there(name)))
            assert self.there(name) <= self.bound[name]
        assert sum(map(self.there, self.models.all)) <= ROOM
        assert len(self.registry.room.held) <= ROOM

    @invariant()
    def never_fewer_than_the_minimum_once_they_are_there(self) -> None:
        kept = self.models.all.get("kept")
        if kept is None or any(not task.done() for task in self.unloads):
            return
        if len(self.ready("kept")) >= kept.min_instances:
            self.warm.add("kept")
        elif "kept" in self.warm:
            outdated = [name for name, _ in self.loads if name == "kept"]
            assert outdated, "only what is just being replaced may be missing"

    @invariant()
    def counts_are_those_of_the_requests(self) -> None:
        open_now = [one for one in self.requests if not one.task.done()]
        for status in self.registry.status():
            inside = [one for one in open_now if one.name == status.id and one.client is not None]
            outside = [one for one in open_now if one.name == status.id and one.client is None]
            assert (status.in_flight, status.waiting) == (len(inside), len(outside))
            assert sum(one.in_flight for one in status.instances) == len(inside)

    def teardown(self) -> None:
        """Everybody finishes, and every load ends well: then what is to stay is there, and all counts are zero."""
        if not hasattr(self, "registry"):
            return
        for _ in range(len(self.requests) + 10):
            for request in self.requests:
                request.leave.set()
            for _, gate in list(self.loads):
                if not gate.done():
                    gate.set_result(None)
            self.now += 40
            self.registry.idle_changed(-1.0)
            self.run()
        assert all(request.task.done() for request in self.requests), "somebody waits for ever"
        assert all(
            isinstance(one.error, ModelLoadError | OverloadedError | UnavailableError | None) for one in self.requests
        )
        assert all((one.in_flight, one.waiting) == (0, 0) for one in self.registry.status())
        assert not self.registry.room.crowded
        self.background.append(self.loop.create_task(self.registry.load("kept", GENERATE)))
        for _ in range(10):
            for _, gate in list(self.loads):
                if not gate.done():
                    gate.set_result(None)
            self.now += 100
            self.registry.idle_changed(-1.0)
            self.run()
        there = {name: len(self.ready(name)) for name in self.models.all}
        assert there == {"kept": self.models.all["kept"].min_instances, "grown": 0, "lone": 0}
        self.run(self.registry.close())
        assert all(client.closed == 1 for client in self.clients)
        assert not self.registry.room.held
        for task in (*self.background, *self.unloads):
            task.cancel()
        self.run()
        self.loop.close()


TestInstances = InstancesMachine.TestCase
TestInstances.settings = settings(max_examples=1000 if FULL else 80, stateful_step_count=50, deadline=None)
