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
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.states import ModelState

GENERATE = Mode.GENERATE
NOTE = "context_length is 128 instead of the model's own 256: memory is short."


class RemoteClient:
    """A ``ModelClient`` that remembers how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.info = ModelInfo(128, 256, notes=(NOTE,))

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
        self.asked: list[ModelSpec] = []

    async def connect(self, spec: ModelSpec, mode: Mode) -> RemoteClient:
        self.calls += 1
        self.asked.append(spec)
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

    def resolve(self, name: str | None, kind: ModelKind = ModelKind.CHAT) -> ModelSpec:
        try:
            return self.all[name or {"embedding": "bert", "reranker": "judge"}.get(kind, "chat")]
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
Play = Callable[..., None]
