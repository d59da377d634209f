"""A registry over a backend of kind "client", which answers to the test instead of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import (
    LocalLLMError,
    ModelNotFoundError,
)
from localllm.contract.events import Event, ModelUnloaded
from localllm.contract.generation import GenerateEvent, GenerateRequest, Started
from localllm.contract.model import MemoryUse, Mode, ModelInfo, ModelKind, ModelSpec
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.residency import InstanceKey
from localllm.host.states import ModelState

GENERATE = Mode.GENERATE
NOTE = "context_length is 128 instead of the model's own 256: memory is short."


class RemoteClient:
    """A ``ModelClient`` that remembers how often it was closed."""

    def __init__(self, memory: MemoryUse | None = None, parallel: int = 1) -> None:
        self.closed = 0
        self.info = ModelInfo(128, 256, notes=(NOTE,), memory=memory, parallel=parallel)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        yield Started(1)

    async def close(self) -> None:
        self.closed += 1


class Remote:
    """A backend whose ``connect`` waits for the gate, then fails with ``error`` or gives a client.

    ``errors`` fail one load each, the first in the list first.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.errors: list[Exception] = []
        self.calls = 0
        self.clients: list[RemoteClient] = []
        self.asked: list[ModelSpec] = []

    async def connect(self, spec: ModelSpec, mode: Mode) -> RemoteClient:
        self.calls += 1
        self.asked.append(spec)
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        measured = spec.meta.get("measured")
        memory = None if measured is None else MemoryUse(measured)
        self.clients.append(RemoteClient(memory, spec.meta.get("parallel", 1)))
        return self.clients[-1]

    def estimate(self, spec: ModelSpec, mode: Mode) -> MemoryUse | None:
        size = spec.meta.get("bytes")
        return None if size is None else MemoryUse(size)


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

    def resolve(self, name: str | None, kind: ModelKind = ModelKind.CHAT) -> ModelSpec:
        try:
            return self.all[name or {"embedding": "bert", "reranker": "judge"}.get(kind, "chat")]
        except KeyError:
            raise ModelNotFoundError(f"There is no model {name!r}.", param="model") from None


class World:
    """One registry and everything around it."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.now = 100.0
        self._tmp_path = tmp_path
        self.models = Models()
        self.remote = Remote()
        self.events: list[Event] = []
        self.unloaded = asyncio.Event()
        backend = BackendSpec(
            "remote", frozenset(Mode), "client", connect=self.remote.connect, estimate=self.remote.estimate
        )
        self.registry = ModelRegistry(
            self.models,
            {"remote": backend},
            self.settings(**settings),
            self._note,
            lambda: self.now,
        )

    def settings(self, **settings: Any) -> RegistrySettings:
        return RegistrySettings(self._tmp_path, **settings)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ModelUnloaded):
            self.unloaded.set()

    @property
    def state(self) -> ModelState:
        (status,) = self.registry.status()
        return status.state

    def add(self, *names: str, **changes: Any) -> None:
        """Add chat models to the catalogue, or change them."""
        for name in names:
            self.models.all[name] = ModelSpec(name, "remote", **changes)

    def use(self, name: str = "chat", mode: Mode = GENERATE, **options: Any) -> Use:
        return Use(self.registry, name, mode, options)

    async def touch(self, *names: str) -> None:
        """Use models one after the other, and a second apart."""
        for name in names:
            self.now += 1
            use = self.use(name)
            await use.entered
            await use.end()

    def states(self) -> dict[str, str]:
        return {status.id: status.state.value for status in self.registry.status()}

    def loaded(self) -> list[str]:
        return sorted(status.id for status in self.registry.status() if status.info is not None)

    def unloaded_for(self, reason: str) -> list[str]:
        return [event.model for event in self.events if isinstance(event, ModelUnloaded) and event.reason == reason]

    def check_counts(self) -> None:
        """Nobody is in or waits, and places are taken by what is loaded and by nothing else."""
        assert all((status.in_flight, status.waiting) == (0, 0) for status in self.registry.status())
        assert not self.registry.room.crowded
        loaded = {
            InstanceKey(one.id, one.mode, one.number)
            for status in self.registry.status()
            for one in status.instances
            if one.info is not None
        }
        assert set(self.registry.room.held) == loaded


class Use:
    """One request: acquires, says so, and holds on until it is told to leave."""

    def __init__(self, registry: ModelRegistry, name: str, mode: Mode, options: Mapping[str, Any]) -> None:
        self.entered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(registry, name, mode, options))

    async def _run(self, registry: ModelRegistry, name: str, mode: Mode, options: Mapping[str, Any]) -> None:
        try:
            async with registry.acquire(name, mode, **options) as client:
                self.entered.set_result(client)
                await self.leave.wait()
        except LocalLLMError as error:
            self.entered.set_exception(error)

    async def end(self) -> None:
        self.leave.set()
        await self.task


Scenario = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[..., None]
