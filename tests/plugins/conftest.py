"""Endpoint plugins in process: a scripted model behind them, and a raw ASGI caller that can leave at any moment."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from localllm.context import PluginContext
from localllm.contract.errors import ModelNotFoundError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Started,
    Timings,
    Usage,
)
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.server.middleware.error_layer import ErrorLayer
from localllm.server.middleware.request_id import RequestId
from localllm.server.routes import RouteEntry, RouteTable
from localllm.testing.app import ScriptedModel, ScriptedModels

Script = Callable[[GenerateRequest], Iterable[GenerateEvent | Exception | asyncio.Event]]


def hello_script(request: GenerateRequest) -> list[GenerateEvent]:
    """Every choice says "Hello world"; choices take turns."""
    n = request.sampling.n
    return [
        Started(7),
        *(Chunk(choice, text, 1) for text in ("Hello", " world") for choice in range(n)),
        *(ChoiceFinished(choice, "stop") for choice in range(n)),
        Finished(Usage(7, 2 * n, 3), Timings(0.5, 4.0, 8.0)),
    ]


class FakeClient:
    """Plays a script: an exception in it is raised, an event in it is waited for."""

    def __init__(self, script: Script) -> None:
        self.info = ModelInfo(context_length=2048, n_vocab=1000)
        self.script = script
        self.requests: list[GenerateRequest] = []
        self.running = 0
        self.cancelled = 0
        self.idle = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        self.requests.append(request)
        self.running += 1
        try:
            for item in self.script(request):
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    await asyncio.sleep(0)
                    yield item
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class FakeModels:
    """One model, ``demo``."""

    client: FakeClient
    in_use: int = 0
    spec: ModelSpec = field(default_factory=lambda: ModelSpec("demo", "fake", aliases=("demo-latest",)))

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        assert mode is Mode.GENERATE
        if name not in (None, self.spec.id, *self.spec.aliases):
            raise ModelNotFoundError(f"There is no model {name!r}; known are: demo.", param="model")
        return self.spec

    @asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AsyncIterator[FakeClient]:
        self.resolve(name, mode)
        self.in_use += 1
        try:
            yield self.client
        finally:
            self.in_use -= 1

    def list_specs(self) -> list[ModelSpec]:
        return [self.spec]

    def loaded(self, model_id: str) -> ModelInfo | None:
        return self.client.info if self.in_use else None


@dataclass
class Answer:
    """What came back. ``events`` are the stream's data objects, without the final ``[DONE]``."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        assert self.headers["content-type"].startswith("application/json"), self.headers
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        assert self.headers["content-type"].startswith("text/event-stream"), self.headers
        return [block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block.startswith("data")]

    @property
    def done(self) -> bool:
        return self.lines[-1] == "[DONE]"

    @property
    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines if line != "[DONE]"]


class PluginServer:
    """One endpoint plugin in a small app with the server's own error layer."""

    def __init__(
        self,
        plugin: ModuleType,
        models: FakeModels | ScriptedModels,
        directory: Path,
        ping_seconds: float,
        settings: dict[str, Any],
    ) -> None:
        self.models = models
        self.client: Any = models.client if isinstance(models, FakeModels) else models.model
        section = getattr(plugin, "localllm_config_section", None)
        context = PluginContext(
            name=plugin.__name__,
            config=None if section is None else section()(**settings),
            logger=logging.getLogger("test"),
            data_dir=directory,
            clock=time.monotonic,
            models=self.models,  # type: ignore[arg-type]
        )
        entries: list[RouteEntry] = []
        self.names: list[str] = []

        def register(route: BaseRoute, *, name: str, **options: Any) -> None:
            entries.append(RouteEntry(route, name, **options))
            self.names.append(name)

        plugin.localllm_register_routes(context=context, register=register)
        self.app = Starlette(
            routes=[entry.route for entry in entries],
            middleware=[
                Middleware(RequestId, clock=time.monotonic, ping_seconds=ping_seconds),
                Middleware(ErrorLayer, routes=RouteTable(entries), logger=logging.getLogger("test")),
            ],
        )

    def get(self, path: str) -> Answer:
        """Ask without a body, in an event loop of its own."""
        return asyncio.run(self.request(path, b"", method="GET"))

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        """Send one request in an event loop of its own."""
        return asyncio.run(self.request(path, body, **options))

    async def request(
        self,
        path: str,
        body: Any,
        *,
        method: str = "POST",
        content_type: str = "application/json",
        leave: asyncio.Event | None = None,
        on_send: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Send one request; the client leaves when ``leave`` is set. ``on_send`` sees each piece of the answer."""
        answer = Answer()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        unread = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")
            if on_send is not None:
                on_send(answer)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"content-type", content_type.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await self.app(scope, receive, send)
        return answer


class _Gate(asyncio.Event):
    """Stays closed; whoever comes to it makes the client leave."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.left.set()
        return await super().wait()


@pytest.fixture
def leave_midway() -> Callable[[ScriptedModel], asyncio.Event]:
    """Return the event by which a client leaves when its first batch is there, the others never coming."""

    def leave(model: ScriptedModel) -> asyncio.Event:
        model.pool_gate = gate = _Gate()
        return gate.left

    return leave


@pytest.fixture
def pooling_models() -> ScriptedModels:
    """One model of each kind; "embedder" and "reranker" are the defaults of their work."""
    kinds = {"chat": ModelKind.CHAT, "embedder": ModelKind.EMBEDDING, "reranker": ModelKind.RERANKER}
    return ScriptedModels([ModelSpec(name, "scripted", kind=kind) for name, kind in kinds.items()])


@pytest.fixture
def make_server(tmp_path: Path) -> Callable[..., PluginServer]:
    def make(
        plugin: ModuleType,
        script: Script = hello_script,
        *,
        models: ScriptedModels | None = None,
        ping_seconds: float = 15.0,
        **settings: Any,
    ) -> PluginServer:
        return PluginServer(plugin, models or FakeModels(FakeClient(script)), tmp_path, ping_seconds, settings)

    return make
