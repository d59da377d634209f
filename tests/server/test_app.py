"""The app as a whole: life cycles, the order of plugins' middleware, and the helpers in an app of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.server.json_body import read_json
from localllm.server.record import request_record
from localllm.server.sse import EventStream, encode_event
from tests.server.kit import FakeHost, FakePlugins, make_kit, run


def test_life_cycles_are_nested_around_the_models() -> None:
    steps: list[str] = []
    plugins = FakePlugins(FakeHost())

    @asynccontextmanager
    async def cycle(name: str) -> AsyncIterator[None]:
        steps.append(f"enter {name}")
        yield
        steps.append(f"leave {name}, models closed: {plugins.host.closed}")

    plugins.cycles = [("a", cycle("a")), ("b", cycle("b"))]
    kit = make_kit(plugins=plugins)

    async def scenario() -> None:
        async with kit.app.router.lifespan_context(kit.app):
            await asyncio.sleep(0)
            assert kit.host.running
            assert steps == ["enter a", "enter b"]

    run(scenario())
    assert steps[2:] == ["leave b, models closed: True", "leave a, models closed: True"]


def test_models_go_on_when_their_background_work_fails(caplog: pytest.LogCaptureFixture) -> None:
    kit = make_kit()

    async def fail() -> None:
        raise ZeroDivisionError

    kit.host.run = fail  # type: ignore[method-assign]

    async def scenario() -> int:
        async with kit.app.router.lifespan_context(kit.app):
            await asyncio.sleep(0)
            return (await kit.request("GET", "/health")).status_code

    assert run(scenario()) == 200
    assert "background work ended" in caplog.text
    assert kit.host.closed


class Mark:
    """Notes in which order plugins' middleware runs, and whether the key was checked before."""

    def __init__(self, app: ASGIApp, *, name: str, seen: list[str]) -> None:
        self.app, self.name, self.seen = app, name, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(f"{self.name} {request_record(scope).authenticated}")
        await self.app(scope, receive, send)


def test_outer_middleware_runs_before_the_key_is_checked_and_inner_after() -> None:
    seen: list[str] = []
    plugins = FakePlugins(FakeHost())
    for name, position in (("in1", "inner"), ("out1", "outer"), ("out2", "outer"), ("in2", "inner")):
        plugins.wrap(Middleware(Mark, name=name, seen=seen), position)
    kit = make_kit(plugins=plugins, api_keys=["k"])
    run(kit.request("GET", "/version", headers={"x-api-key": "k"}))
    assert seen == ["out1 False", "out2 False", "in1 True", "in2 True"]
    seen.clear()
    run(kit.request("GET", "/version"))
    assert seen == ["out1 False", "out2 False"]


def test_the_helpers_work_in_a_bare_app() -> None:
    async def count(request: Request) -> Response:
        body = await read_json(request)

        async def numbers() -> AsyncIterator[str]:
            for number in range(body["n"]):
                yield f'{{"n":{number}}}'

        return EventStream(numbers())

    app = Starlette(routes=[Route("/count", count, methods=["POST"])])

    async def scenario() -> str:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post("/count", json={"n": 2})).text

    assert run(scenario()) == 'data: {"n":0}\n\ndata: {"n":1}\n\n'


@pytest.mark.parametrize("event", ['{"a":\n1}', "{}\r"])
def test_an_event_is_one_line(event: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event(event)


def test_newlines_inside_of_values_do_not_break_an_event() -> None:
    assert encode_event({"text": "a\n\ndata: b\r\u2028"}).count(b"\n") == 2
