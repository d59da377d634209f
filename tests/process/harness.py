"""What the process tests share: registries over fake models, scripted workers, and ways to look at processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from localllm.contract.backend import BackendSpec, LoadRequest, ModelClient
from localllm.contract.errors import ModelNotFoundError
from localllm.contract.events import Event
from localllm.contract.generation import (
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    SamplingParams,
    TextPrompt,
)
from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.contract.wire import Hello
from localllm.host.client import ClientLimits, WorkerClient
from localllm.host.environment import worker_environment
from localllm.host.launch import LaunchSettings, launch_worker
from localllm.host.process import WorkerCommand
from localllm.host.registry import ModelRegistry, RegistrySettings
from tests.processes import children

SCRIPT = Path(__file__).with_name("faulty_workers.py")
PATIENCE_SECONDS = 30.0


class Models:
    """A catalogue of fakes: ``Models(demo={"fail_load": ...})`` has one model, ``demo``."""

    def __init__(self, **settings: Mapping[str, Any]) -> None:
        self._specs = {name: ModelSpec(name, "fake", settings=chosen) for name, chosen in settings.items()}

    @property
    def default(self) -> str | None:
        return next(iter(self._specs), None)

    def specs(self) -> Mapping[str, ModelSpec]:
        return self._specs

    def resolve(self, name: str | None, kind: ModelKind = ModelKind.CHAT) -> ModelSpec:
        chosen = self.default if name is None else name
        if chosen not in self._specs:
            raise ModelNotFoundError(f"There is no model {name!r}.", param="model")
        return self._specs[chosen]

    def change(self, spec: ModelSpec) -> None:
        self._specs[spec.id] = spec


class Events:
    """Collects what the registry emits, and lets a test wait for one kind."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.seen.append(event)
        self._changed.set()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def wait_for(self, kind: type, count: int = 1) -> list[Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(kind)


def fake_backend(factory: str = "load_fake", **changes: Any) -> BackendSpec:
    return BackendSpec("fake", frozenset({Mode.GENERATE}), factory=f"localllm.testing.decoders:{factory}", **changes)


@asynccontextmanager
async def running_registry(
    models: Models,
    state: Path,
    *,
    backend: BackendSpec | None = None,
    emit: Callable[[Event], None] = lambda event: None,
    clock: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> AsyncIterator[ModelRegistry]:
    """A registry whose workers are gone when the ``async with`` is left."""
    registry = ModelRegistry(
        models, {"fake": backend or fake_backend()}, RegistrySettings(state, **settings), emit, clock
    )
    try:
        yield registry
    finally:
        await registry.close()


@asynccontextmanager
async def scripted_worker(
    script: str, *, hang_timeout_seconds: float = 60.0, stop_seconds: float = 5.0
) -> AsyncIterator[WorkerClient]:
    """The client of a worker that follows one of the scripts in ``faulty_workers.py``."""
    command = scripted_command(script)
    limits = ClientLimits(hang_timeout_seconds=hang_timeout_seconds, stop_seconds=stop_seconds)
    hello = Hello("scripted:worker", LoadRequest("demo", None, Mode.GENERATE))
    client = await launch_worker(command, hello, LaunchSettings(limits))
    try:
        yield client
    finally:
        await client.close()


def scripted_command(script: str) -> WorkerCommand:
    environment = worker_environment(os.environ)
    return WorkerCommand("demo", environment, scripted_argv(script))


def scripted_argv(script: str) -> tuple[str, ...]:
    """What starts a scripted worker: ``running_registry(..., worker_argv=scripted_argv("well_behaved"))``."""
    return sys.executable, "-P", str(SCRIPT), script


def ask(text: str = "hello", *, max_tokens: int | None = 8, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(TextPrompt(text), SamplingParams(max_tokens=max_tokens, **sampling))


async def read_all(client: ModelClient, request: GenerateRequest | None = None) -> list[GenerateEvent]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [event async for event in client.generate(request or ask())]


def text_of(events: list[GenerateEvent], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk) and event.choice == choice)


def finished(events: list[GenerateEvent]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


async def first_chunk(stream: AsyncIterator[GenerateEvent]) -> Chunk:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in stream:
            if isinstance(event, Chunk):
                return event
    raise AssertionError("the stream ended before its first chunk")


def exists(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def workers(mark: str) -> list[int]:
    """Return the scripted workers of this process that run (zombies are over) and were started with ``mark``."""
    found = []
    for pid in children():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except FileNotFoundError:
            continue
        if mark in command.split("\0"):
            found.append(pid)
    return found
