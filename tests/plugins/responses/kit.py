"""A server in process with the plugin and a store in memory, and a model that can be made to wait."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

import localllm_responses
from localllm import PluginContext, RegisterStore, hookimpl
from localllm.contract.generation import Chunk, GenerateEvent, GenerateRequest, Started
from localllm.contract.sessions import SessionStore
from localllm.testing.app import InProcessServer, ScriptedModel, ScriptedModels, serve_in_process
from localllm.testing.sessions import MemoryStore

ADA = {"authorization": "Bearer sk-ada-0123456789abcdef"}
BOB = {"authorization": "Bearer sk-bob-0123456789abcdef"}
KEYS = {"server": {"api_keys": ["sk-ada-0123456789abcdef", "sk-bob-0123456789abcdef"]}}


class WaitingModel(ScriptedModel):
    """While ``gate`` is there, an answer stops behind its first piece until it is set; ``reached`` tells that it has.

    ``opened`` tells that an answer was begun, ``closed`` that one has ended, however it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Yield the events of the next answer."""
        try:
            async for event in super().generate(request):
                yield event
                if self.gate is not None and isinstance(event, Chunk):
                    self.reached.set()
                    await self.gate.wait()
                elif self.gate is not None and isinstance(event, Started):
                    await asyncio.sleep(0)
        finally:
            self.closed.set()


def store_plugin(store: SessionStore) -> str:
    """Return the place of a plugin that brings ``store``."""
    module = ModuleType("tests_responses_store")

    @hookimpl
    def localllm_register_stores(context: PluginContext, register: RegisterStore) -> None:
        register(store, name="memory")

    module.localllm_register_stores = localllm_register_stores  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return module.__name__


class Server:
    """What tests talk to. ``store`` is None where no plugin brings one."""

    def __init__(self, inner: InProcessServer, store: SessionStore | None, model: WaitingModel) -> None:
        self.client = inner.client
        self.store = store
        self.model = model

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(path, json=body, **options)

    async def create(self, input_: Any = "Hi", **fields: Any) -> dict[str, Any]:
        """Ask for a response that is to be there."""
        headers = fields.pop("headers", None)
        answer = await self.post("/v1/responses", {"input": input_, **fields}, headers=headers)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def stream(self, input_: Any = "Hi", **fields: Any) -> list[dict[str, Any]]:
        """Ask for a stream, and check how its events are named."""
        headers = fields.pop("headers", None)
        answer = await self.post("/v1/responses", {"input": input_, "stream": True, **fields}, headers=headers)
        assert answer.status_code == 200, answer.text
        return read_stream(answer)

    async def get(self, path: str, **options: Any) -> dict[str, Any]:
        answer = await self.client.get(path, **options)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def shown(self, index: int = -1) -> list[tuple[str, str]]:
        """Return (role, content) of the messages that the model was shown."""
        return [(one["role"], one["content"]) for one in self.model.requests[index].prompt.messages]  # type: ignore[union-attr]


def read_stream(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a stream; each is named by its type, and nothing follows the last."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events: list[dict[str, Any]] = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    store: SessionStore | None = None,
    keeps: bool = True,
    models: ScriptedModels | None = None,
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    """Run a server; ``settings`` are those of the plugin. With ``keeps`` unset there is no store."""
    kept = (store or MemoryStore()) if keeps else None
    plugins: dict[str, str | ModuleType] = {} if kept is None else {"memory": store_plugin(kept)}
    plugins["responses"] = localllm_responses
    models = models or ScriptedModels()
    model = WaitingModel()
    models.model = model
    whole = {**(config or {}), "plugin": {"responses": settings}}
    async with serve_in_process(plugins, folder, models=models, config=whole) as inner:
        yield Server(inner, kept, model)


def run(folder: Path, scenario: Callable[[Server], Awaitable[None]], **options: Any) -> None:
    """Play a scenario with a server of its own."""

    async def play() -> None:
        async with serving(folder, **options) as server:
            await asyncio.wait_for(scenario(server), 30)

    asyncio.run(play())
