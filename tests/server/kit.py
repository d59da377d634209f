"""A server around scripted models: real routes, middleware and sockets, and no worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import orjson
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from localllm.config.schema import Config, ModelsSection, ServerSection
from localllm.contract.backend import BackendSpec
from localllm.contract.errors import ModelNotFoundError, ModelUnsupportedError
from localllm.contract.events import Event
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Started,
    TextPrompt,
    Timings,
    Usage,
)
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.server.app import build_app
from localllm.server.disconnect import race_disconnect
from localllm.server.drain import Drain
from localllm.server.json_body import read_json
from localllm.server.listener import Listener, open_socket
from localllm.server.pipeline import stream_generation
from localllm.server.sse import EventStream

T = TypeVar("T")

CHAT = ModelSpec("demo", "fake", created=1_700_000_000, meta={"name": "Demo", "n_ctx_train": 512}, aliases=("d",))
NESTED = ModelSpec("org/name:Q4", "fake", created=1_700_000_001)
EMBEDDER = ModelSpec("embedder", "fake", kind=ModelKind.EMBEDDING)


@dataclass
class FakeState:
    """One row of ``status()``."""

    id: str
    state: str = "ready"
    mode: Mode = Mode.GENERATE
    safe_mode: bool = False
    info: ModelInfo | None = field(default_factory=lambda: ModelInfo(context_length=256, n_vocab=8))
    in_flight: int = 0
    waiting: int = 0
    pinned: bool = False
    ttl_seconds: float | None = None
    expires_in_seconds: float | None = None
    loaded_for_seconds: float | None = None
    worker_pid: int | None = None
    memory_bytes: int | None = None
    memory_estimated_bytes: int | None = None
    error: str | None = None
    unused_for_seconds: float | None = None
    number: int = 0
    instances: Sequence[FakeState] = ()


class FakeClient:
    """Writes ``pieces``, then holds at ``gate`` if there is one. Counts what is open and what was closed early."""

    def __init__(self) -> None:
        self.info = ModelInfo(context_length=256, n_vocab=8)
        self.pieces: list[str | Exception] = ["Hel", "lo"]
        self.gate: asyncio.Event | None = None
        self.hold_before = False
        self.requests: list[GenerateRequest] = []
        self.open = 0
        self.cancelled = 0
        self.entered = asyncio.Event()
        self.left = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        self.requests.append(request)
        self.open += 1
        self.entered.set()
        complete = False
        try:
            yield Started(prompt_tokens=5)
            if self.gate and self.hold_before:
                await self.gate.wait()
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield Chunk(choice=0, text=piece, tokens=1)
            if self.gate:
                await self.gate.wait()
            yield ChoiceFinished(choice=0, reason="stop")
            complete = True
            yield Finished(Usage(5, len(self.pieces), cached_tokens=3), Timings(1.0, 2.0, 100.0))
        except Exception:
            complete = True
            raise
        finally:
            self.open -= 1
            self.cancelled += not complete
            self.left.set()

    async def close(self) -> None:
        pass


class FakeHost:
    """A registry whose models are loaded already."""

    def __init__(self, *specs: ModelSpec) -> None:
        self.specs = list(specs or (CHAT, NESTED, EMBEDDER))
        self.client = FakeClient()
        self.states = [FakeState("demo")]
        self.acquired = 0
        self.options: list[tuple[bool, float | None]] = []  # what requests said of loading and staying
        self.affinities: list[int | None] = []
        self.preloading: list[str] = []
        self.asked: list[tuple[Any, ...]] = []  # loads and unloads
        self.refusal: Exception | None = None
        self.running = False
        self.closed = False

    def resolve(self, name: str | None, mode: Mode) -> ModelSpec:
        if name is None:
            return self.specs[0]
        for spec in self.specs:
            if name in (spec.id, *spec.aliases):
                if (spec.kind is ModelKind.CHAT) != (mode is Mode.GENERATE):
                    raise ModelUnsupportedError(f"{name} can't do that", param="model")
                return spec
        raise ModelNotFoundError(f"no model {name!r}", param="model")

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
        self.options.append((autoload, ttl_seconds))
        self.affinities.append(affinity)
        self.acquired += 1
        try:
            yield self.client
        finally:
            self.acquired -= 1

    def list_specs(self) -> list[ModelSpec]:
        return self.specs

    def loaded(self, model_id: str) -> ModelInfo | None:
        return next((state.info for state in self.states if state.id == model_id), None)

    async def preload(self, names: Sequence[str | None]) -> None:
        self.asked.append(("preload", *names))

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        self.asked.append(("load", name, mode, ttl_seconds, pinned))
        if self.refusal is not None:
            raise self.refusal

    async def unload(self, name: str | None, mode: Mode, *, deadline_seconds: float, force: bool = False) -> bool:
        self.asked.append(("unload", name, mode, deadline_seconds, force))
        if self.refusal is not None:
            raise self.refusal
        return True

    def status(self) -> list[FakeState]:
        return self.states

    async def run(self) -> None:
        self.running = True
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakePlugins:
    """What ``build_app`` asks of a plugin manager."""

    host: FakeHost
    routes: list[Any] = field(default_factory=list)
    middleware: list[Any] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    cycles: list[Any] = field(default_factory=list)
    open_at_end: list[int] = field(default_factory=list)  # generations that were open when a request was over
    backends: Mapping[str, BackendSpec] = field(
        default_factory=lambda: {
            "fake": BackendSpec("fake", frozenset({Mode.GENERATE}), factory="a:b", build_id=lambda: "fake 1.0 (abc123)")
        }
    )

    def __post_init__(self) -> None:
        self.logged = asyncio.Event()  # some request is over
        self.context = SimpleNamespace(models=self.host, interceptors=tuple)
        for path, handler, options in endpoints(self.context):
            self.add(path, handler, **options)

    def add(
        self, path: str, handler: Any, *, name: str | None = None, methods: list[str] | None = None, **rest: Any
    ) -> None:
        route = Route(path, handler, methods=methods or ["POST"])
        options = {"max_body_bytes": None, "public": False, "errors": "openai", "doc": None, **rest}
        self.routes.append(SimpleNamespace(route=route, name=name or path.strip("/"), plugin="kit", **options))

    def wrap(self, middleware: Middleware, position: str) -> None:
        self.middleware.append(SimpleNamespace(middleware=middleware, position=position, plugin="kit"))

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.open_at_end.append(self.host.client.open)
        self.logged.set()

    def lifespans(self) -> list[Any]:
        return self.cycles

    def bind_models(self, host: Any) -> None:
        assert host is self.host


def endpoints(context: Any) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    async def chunks(request: Request, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        prompt = GenerateRequest(TextPrompt(body.get("prompt", "secret prompt")))
        async with aclosing(stream_generation(request, context, body.get("model"), prompt)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    yield {"text": event.text}

    async def stream(request: Request) -> Response:
        return EventStream(chunks(request, await read_json(request)), done=True)

    async def answer(request: Request) -> Response:
        body = await read_json(request)

        async def collect() -> str:
            return "".join([piece["text"] async for piece in chunks(request, body)])

        return Response(orjson.dumps({"text": await race_disconnect(request, collect())}))

    async def echo(request: Request) -> Response:
        return Response(orjson.dumps(await read_json(request)), media_type="application/json")

    async def boom(request: Request) -> Response:
        raise ZeroDivisionError("secret detail")

    async def teapot(request: Request) -> Response:
        raise HTTPException(418, "short and stout", headers={"x-spout": "yes"})

    async def half(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first half"
            raise ZeroDivisionError

        return StreamingResponse(pieces())

    return [
        ("/stream", stream, {}),
        ("/answer", answer, {}),
        ("/echo", echo, {}),
        ("/tiny", echo, {"max_body_bytes": 1000}),
        ("/roomy", echo, {"max_body_bytes": 100_000}),
        ("/open", echo, {"public": True}),
        ("/boom", boom, {"methods": ["GET"]}),
        ("/teapot", teapot, {"methods": ["GET"]}),
        ("/half", half, {"methods": ["GET"]}),
    ]


@dataclass
class Kit:
    """One app with everything that a test may want to look at."""

    app: Starlette
    host: FakeHost
    plugins: FakePlugins
    drain: Drain

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask in process, with no socket. ``headers`` are added to a plain Host."""
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, path, **options)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Serve on a free port of 127.0.0.1."""
        listener = Listener(self.app, open_socket("127.0.0.1", 0), logger=logging.getLogger("localllm.server"))
        await listener.start()
        try:
            yield listener
        finally:
            await listener.close(0.2)


def make_kit(*, models: ModelsSection | None = None, plugins: FakePlugins | None = None, **server: Any) -> Kit:
    """Build an app; keyword arguments are keys of ``[server]``."""
    config = Config(server=replace(ServerSection(), **server), models=models or ModelsSection())
    plugins = plugins or FakePlugins(FakeHost())
    drain = Drain()
    app = build_app(config, plugins, plugins.host, drain=drain)  # type: ignore[arg-type]
    return Kit(app, plugins.host, plugins, drain)


_opened: ContextVar[list[Raw]] = ContextVar("opened")


def run(scenario: Coroutine[Any, Any, T], *, loop: str = "asyncio") -> T:
    """Run one test's scenario in an event loop of its own, and close the clients that it leaves open.

    ``loop`` is "asyncio" or "uvloop"; the server takes uvloop where there is one.
    """

    async def main() -> T:
        opened: list[Raw] = []
        _opened.set(opened)
        try:
            return await scenario
        finally:
            for raw in opened:
                raw.abort()
            await asyncio.sleep(0)  # transports close in the loop's next turn

    factory = uvloop.new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


class Raw:
    """A client that sends bytes as they are. Only inside of :func:`run`, which closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        _opened.get().append(self)

    @classmethod
    async def connect(cls, listener: Listener) -> Raw:
        return cls(*await asyncio.open_connection(*listener.address))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: bytes = b"{}", *, extra: bytes = b"", headers: str = "") -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
        await self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + extra)

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Return what comes until the server closes; a reset counts as that."""
        data = b""
        try:
            while piece := await self.reader.read(65536):
                data += piece
        except ConnectionError:
            pass
        return data

    def abort(self) -> None:
        self.writer.transport.abort()


def our_log(caplog: pytest.LogCaptureFixture) -> str:
    """Return what the server logged; the test client logs too."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("localllm"))


def statuses(data: bytes) -> list[int]:
    """Return the status of each response in a byte stream."""
    return [int(line.split()[1]) for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
