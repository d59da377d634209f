"""Shutting down: probes say so, new work is refused, old work ends by itself or with a farewell."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.kit import Kit, Raw, make_kit, run, statuses


async def open_stream(kit: Kit, raw: Raw) -> None:
    kit.host.client.gate = kit.host.client.gate or asyncio.Event()
    await raw.post("/stream")
    await raw.until(b'"lo"}\n\n')


def test_new_work_is_refused_and_probes_are_not() -> None:
    async def scenario() -> None:
        kit = make_kit()
        async with kit.listening() as listener:
            old = await Raw.connect(listener)
            await open_stream(kit, old)
            draining = asyncio.create_task(kit.drain.run(30))
            await asyncio.sleep(0)
            assert kit.drain.draining
            for path, status in (("/health", 200), ("/ready", 503), ("/version", 503), ("/nowhere", 503)):
                new = await Raw.connect(listener)
                await new.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = await new.rest()  # each says goodbye to its connection
                new.abort()
                assert statuses(answer) == [status], path
                assert b"connection: close" in answer
                assert (b"retry-after: 5" in answer) is (status == 503)
            assert not draining.done()
            kit.host.client.gate.set()  # type: ignore[union-attr]
            assert (await old.until(b"0\r\n\r\n")).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            await draining
            old.abort()
        assert "stop" in {event.finish for event in kit.plugins.events}

    run(scenario())


@pytest.mark.parametrize("hurry", [False, True])
def test_open_streams_get_a_farewell_at_the_deadline_or_at_the_second_signal(hurry: bool) -> None:
    async def scenario() -> Kit:
        kit = make_kit()
        async with kit.listening() as listener:
            raws = [await Raw.connect(listener) for _ in range(5)]
            for raw in raws:
                await open_stream(kit, raw)
            draining = asyncio.create_task(kit.drain.run(60 if hurry else 0.1))
            if hurry:
                kit.drain.hurry()
            await draining
            for raw in raws:
                farewell = await raw.until(b"0\r\n\r\n")  # the response ends, it isn't cut
                assert b'data: {"error":{' in farewell
                assert b'"code":"service_unavailable"' in farewell
                assert b"shutting down" in farewell
                assert b"[DONE]" not in farewell
                raw.abort()
        return kit

    kit = run(scenario())
    assert kit.host.client.cancelled == 5
    assert kit.host.acquired == kit.drain.open_requests == 0
    assert {event.finish for event in kit.plugins.events} == {"service_unavailable"}


def test_an_answer_that_has_not_begun_is_a_503() -> None:
    async def scenario() -> bytes:
        kit = make_kit()
        kit.host.client.gate = asyncio.Event()
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.post("/answer")
            await kit.host.client.entered.wait()
            await kit.drain.run(0)
            answer = await raw.until(b'"}}')
            raw.abort()
            return answer

    answer = run(scenario())
    assert statuses(answer) == [503]
    assert b"retry-after" in answer


def test_an_idle_server_drains_at_once() -> None:
    kit = make_kit()
    run(asyncio.wait_for(kit.drain.run(3600), 10))
    assert kit.drain.draining


def test_closing_the_listener_is_bounded_whoever_is_connected() -> None:
    """Idle, half a request, half a header, an unread stream: none of them keeps the server."""

    async def scenario() -> None:
        kit = make_kit(send_timeout_seconds=3600, ping_seconds=3600)
        kit.host.client.pieces = ["x" * 65536] * 500
        async with kit.listening() as listener:
            raws = [await Raw.connect(listener) for _ in range(4)]
            await raws[1].send(b"GET /hea")
            await raws[2].send(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
            await raws[3].post("/stream")
            await raws[3].until(b"\r\n\r\n")
            await asyncio.wait_for(listener.close(0.2), 20)
            for raw in raws:
                raw.abort()
        assert kit.host.acquired == 0

    run(scenario())
