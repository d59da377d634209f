"""Event streams, departures and slow readers, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from localllm.contract.errors import ContextLengthExceededError, SlowReaderError, WorkerCrashedError
from localllm.contract.events import RequestFinished
from localllm.contract.generation import Timings, Usage
from localllm.server import connection
from localllm.server.middleware.send_deadline import SendDeadline
from localllm.server.record import RequestRecord
from localllm.server.sse import EventStream
from tests.server.kit import FakeHost, FakePlugins, Kit, Raw, make_kit, run, statuses


def finished(kit: Kit) -> RequestFinished:
    (event,) = kit.plugins.events
    assert isinstance(event, RequestFinished)
    return event


def test_stream_is_data_events_and_done() -> None:
    kit = make_kit()
    response = run(kit.request("POST", "/stream", json={}))
    assert response.text == 'data: {"text":"Hel"}\n\ndata: {"text":"lo"}\n\ndata: [DONE]\n\n'
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    event = finished(kit)
    assert (event.endpoint, event.model, event.status, event.finish) == ("stream", "demo", 200, "stop")
    assert (event.prompt_tokens, event.cached_tokens, event.completion_tokens) == (5, 3, 2)
    assert event.first_token_seconds is not None
    assert 0 <= event.first_token_seconds <= event.duration_seconds
    assert kit.host.acquired == kit.host.client.open == kit.host.client.cancelled == 0


def test_what_ended_early_is_counted_as_far_as_it_came() -> None:
    kit = make_kit()
    kit.host.client.pieces = ["Hel", WorkerCrashedError("gone")]
    run(kit.request("POST", "/stream", json={}))
    event = finished(kit)
    assert (event.finish, event.prompt_tokens, event.completion_tokens) == ("worker_crashed", 5, 1)
    assert event.cached_tokens is None, "only a finished answer tells"


def test_several_generations_of_one_request_are_counted_together() -> None:
    record = RequestRecord()
    record.add_usage(Usage(5, 10, cached_tokens=1), Timings(1.0, 2.0, 100.0))
    record.add_usage(Usage(7, 30, cached_tokens=2), Timings(1.0, 2.0, 400.0))
    record.add_usage(Usage(1, 0), Timings(1.0, 2.0, 0.0))
    assert record.usage == Usage(13, 40, cached_tokens=3)
    assert record.tokens_per_second == 100.0


def test_error_before_the_first_event_has_its_own_status() -> None:
    kit = make_kit()
    kit.host.client.pieces = [ContextLengthExceededError(900, 512)]
    response = run(kit.request("POST", "/stream", json={}))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (900, 512)
    assert finished(kit).finish == "context_length_exceeded"


def test_error_after_the_first_event_ends_the_stream() -> None:
    kit = make_kit()
    kit.host.client.pieces = ["Hel", WorkerCrashedError("killed by SIGKILL", detail={"signal": "SIGKILL"})]
    response = run(kit.request("POST", "/stream", json={}))
    assert response.status_code == 200
    first, second, rest = response.text.split("\n\n")
    assert (first, rest) == ('data: {"text":"Hel"}', "")
    error = orjson.loads(second.removeprefix("data: "))["error"]
    assert (error["code"], error["signal"], error["type"]) == ("worker_crashed", "SIGKILL", "server_error")
    assert finished(kit).finish == "worker_crashed"


@pytest.mark.parametrize("named", [True, False])
def test_a_stream_may_end_in_its_own_words(named: bool) -> None:
    async def events() -> AsyncIterator[Mapping[str, Any]]:
        yield {"type": "hello"}
        raise WorkerCrashedError("gone")

    async def stream(request: Request) -> Response:
        return EventStream(events(), named=named, farewell=lambda error: {"type": "bye", "why": error.code})

    plugins = FakePlugins(FakeHost())
    plugins.add("/own", stream)
    response = run(make_kit(plugins=plugins).request("POST", "/own"))
    names = ["event: hello\n", "event: bye\n"] if named else ["", ""]
    hello, bye = 'data: {"type":"hello"}\n\n', 'data: {"type":"bye","why":"worker_crashed"}\n\n'
    assert response.text == names[0] + hello + names[1] + bye


def test_silence_is_filled_with_pings_and_commits_to_200() -> None:
    async def scenario() -> None:
        kit = make_kit(ping_seconds=0.05)
        client = kit.host.client
        client.gate, client.hold_before = asyncio.Event(), True
        client.pieces = [WorkerCrashedError("gone")]
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.post("/stream")
            assert (await raw.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await raw.until(b": ping\n\n")
            await raw.until(b": ping\n\n")
            client.gate.set()
            assert b'"code":"worker_crashed"' in await raw.until(b"0\r\n\r\n")
            raw.abort()

    run(scenario())


@pytest.mark.parametrize(
    ("path", "leave"),
    [
        *((path, leave) for path in ("/stream", "/answer") for leave in ("abort", "reset", "half-close")),
        # Hypercorn stops reading after a byte too many: only a failing write tells. For /answer there is the deadline.
        ("/stream", "pipelined byte"),
    ],
)
@pytest.mark.parametrize("phase", ["waiting", "writing"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_departure_frees_the_model(path: str, leave: str, phase: str, loop: str) -> None:
    async def scenario() -> Kit:
        kit = make_kit(ping_seconds=0.05)
        client = kit.host.client
        client.gate, client.hold_before = asyncio.Event(), phase == "waiting"
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.post(path, extra=b"G" if leave == "pipelined byte" else b"")
            if path == "/stream":
                await raw.until(b": ping\n\n" if phase == "waiting" else b'"lo"}\n\n')
            else:
                await client.entered.wait()
            if leave == "half-close":
                raw.writer.write_eof()
            elif leave == "reset":
                raw.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                raw.writer.close()
            else:
                raw.abort()
            await asyncio.wait_for(client.left.wait(), 10)
            await asyncio.wait_for(kit.plugins.logged.wait(), 20)
            raw.abort()
        return kit

    kit = run(scenario(), loop=loop)
    assert kit.host.client.cancelled == 1
    assert kit.host.acquired == kit.drain.open_requests == 0
    assert finished(kit).finish == "cancelled"
    if path == "/stream":
        assert finished(kit).completion_tokens == (0 if phase == "waiting" else 2)


def test_the_deadline_ends_what_nothing_else_does() -> None:
    async def scenario() -> tuple[bytes, Kit]:
        kit = make_kit(request_timeout_seconds=0.1)
        kit.host.client.gate = asyncio.Event()
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.post("/answer", extra=b"G")
            answer = await raw.until(b'"}}')
            raw.abort()
            return answer, kit

    answer, kit = run(scenario())
    assert statuses(answer) == [504]
    assert b"deadline_exceeded" in answer
    assert b"x-should-retry: false" in answer
    assert kit.host.client.cancelled == 1
    assert finished(kit).finish == "deadline_exceeded"


@pytest.mark.parametrize("path", ["/stream", "/answer"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reader_that_does_not_read_is_dropped(path: str, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> Kit:
        kit = make_kit(send_timeout_seconds=0.2)
        kit.host.client.pieces = ["x" * 65536] * 1000
        async with kit.listening() as listener:
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.setblocking(False)
            await asyncio.get_running_loop().sock_connect(small, listener.address)
            reader, writer = await asyncio.open_connection(sock=small, limit=1024)
            raw = Raw(reader, writer)
            await raw.post(path)
            await asyncio.wait_for(kit.host.client.left.wait(), 20)
            await asyncio.wait_for(kit.plugins.logged.wait(), 20)
            await listener._wait(10)
            assert listener.open_connections == 0  # cut by the server: the client has read nothing
            await listener.close(5)
            raw.abort()
        return kit

    kit = run(scenario(), loop=loop)
    assert finished(kit).finish == "slow_reader"
    assert kit.plugins.open_at_end == [0]  # the model was let go before the request was called over
    assert kit.host.acquired == kit.host.client.open == 0
    assert "Traceback" not in caplog.text


def test_a_cancelled_stream_leaves_the_connection_closed_and_others_alone() -> None:
    async def scenario() -> None:
        kit = make_kit()
        kit.host.client.gate = asyncio.Event()
        async with kit.listening() as listener:
            leaving, staying = await Raw.connect(listener), await Raw.connect(listener)
            for raw in (leaving, staying):
                await raw.post("/stream")
                await raw.until(b'"lo"}\n\n')
            leaving.abort()
            await kit.host.client.left.wait()
            kit.host.client.gate.set()
            assert await staying.until(b"0\r\n\r\n") == b"\r\n" + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
            await staying.post("/stream")  # the connection lives on
            assert statuses(await staying.until(b"0\r\n\r\n")) == [200]
            staying.abort()
        assert sorted(event.finish for event in kit.plugins.events) == ["cancelled", "stop", "stop"]

    run(scenario())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_storm_of_departures_leaves_nothing_behind(loop: str) -> None:
    """Clients that connect, ask and reset at once, at every point of their request."""

    async def scenario() -> Kit:
        kit = make_kit()
        kit.host.client.gate = asyncio.Event()
        async with kit.listening() as listener:
            request = b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            request += b"Content-Length: 2\r\n\r\n{}"
            for cut in range(0, len(request) + 1, 2):
                raw = await Raw.connect(listener)
                await raw.send(request[:cut])
                raw.abort()
            last = await Raw.connect(listener)
            await last.post("/stream")
            await last.until(b'"lo"}\n\n')
            kit.host.client.gate.set()
            await last.until(b"0\r\n\r\n")
            last.abort()
            await listener.close(5)
            assert listener.open_connections == 0
        return kit

    kit = run(scenario(), loop=loop)
    assert kit.host.acquired == kit.host.client.open == kit.drain.open_requests == 0


def test_a_slow_header_is_cut_and_an_idle_connection_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_TIMEOUT_SECONDS", 0.1)

    async def scenario() -> None:
        async with make_kit().listening() as listener:
            idle, slow, again = [await Raw.connect(listener) for _ in range(3)]
            await slow.send(b"GET /health HT")
            assert await slow.rest() == b""
            await again.post("/echo")
            await again.until(b"{}")
            await again.send(b"GET /hea")  # the second request of a connection is under the same deadline
            assert await again.rest() == b""
            await idle.post("/echo")
            assert statuses(await idle.until(b"{}")) == [200]

    run(scenario())


def test_pipelined_requests_are_answered_in_turn() -> None:
    async def scenario() -> list[int]:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            one = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            await raw.send((one + b"Content-Length: 2\r\n\r\n{}") * 3)
            answers = [await raw.until(b"\r\n\r\n{}") for _ in range(3)]
            return [status for answer in answers for status in statuses(answer)]

    assert run(scenario()) == [200, 200, 200]


def test_who_sends_on_after_the_cut_is_told_again() -> None:
    """A ping may be what finds that nobody reads; the stream that it belongs to must not write on into nothing."""
    refusals = 0
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal refusals
        for piece in (b": ping", b"data: 1", b"data: 2"):
            try:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            except SlowReaderError:
                refusals += 1

    async def send(message: Message) -> None:
        sent.append(message)
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.request"}

    run(SendDeadline(app, seconds=0.01)({"type": "http"}, receive, send))
    assert refusals == 3
    assert len(sent) == 1
