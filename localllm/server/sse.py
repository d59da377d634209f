"""Server-sent events: one async iterator becomes a stream that pings when silent and ends when its reader leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localllm.contract.errors import LocalLLMError
from localllm.hookspecs import ErrorForm
from localllm.server.disconnect import cancel_on_disconnect, close_iterator, end_task
from localllm.server.errors import error_json
from localllm.server.record import request_record

MEDIA_TYPE = "text/event-stream; charset=utf-8"
PING = b": ping\n\n"  # a bare ":" is legal too, but a Go client's decoder failed on it
DONE = b"data: [DONE]\n\n"


def encode_event(event: Mapping[str, Any] | str, *, named: bool = False) -> bytes:
    """Return one ``data:`` event. A string is JSON already, on one line.

    ``named`` puts the ``type`` that the object has before it, as the event's name.
    Raises ``ValueError`` for a string of several lines.
    """
    if isinstance(event, str):
        if "\n" in event or "\r" in event:
            message = "a server-sent event must be one line of JSON"
            raise ValueError(message)
        return b"data: " + event.encode() + b"\n\n"
    name = b"event: " + event["type"].encode() + b"\n" if named else b""
    return name + b"data: " + orjson.dumps(event) + b"\n\n"


def encode_error(error: LocalLLMError, form: ErrorForm = "openai") -> bytes:
    """Return the event that ends a stream which an error cut short, in the form of the stream's route."""
    return b"data: " + error_json(error, form) + b"\n\n"


class EventStream(Response):
    """A ``text/event-stream`` answer: ``return EventStream(chunks(), done=True)``.

    ``events`` is an async iterator (best an async generator, which is always closed at the end) of JSON objects as
    mappings, or of strings that hold one line of JSON each. It runs inside the request's task: what it holds (a loaded
    model) it holds until the stream is over, and it is cancelled at its ``await`` when the client leaves.

    The response starts with the first event, or after ``ping_seconds`` of silence: an error that ``events`` raises
    before that is answered as JSON with its own status; later it becomes one ``data: {"error": ...}`` event, after
    which the stream ends (the error layer writes it), or the event that ``farewell`` makes of it. ``: ping`` comments
    follow whenever ``ping_seconds`` pass in silence (default: the server's setting). ``done=True`` ends a complete
    stream with ``data: [DONE]``; ``named=True`` names each event by its ``type``. Read the request's body before
    (``read_json``).
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, Any] | str],
        *,
        done: bool = False,
        named: bool = False,
        farewell: Callable[[LocalLLMError], Mapping[str, Any]] | None = None,
        ping_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.events = events
        self.done = done
        self.named = named
        self.farewell = farewell
        self.ping_seconds = ping_seconds
        # No cache and no proxy (nginx's X-Accel-Buffering) may hold tokens back.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Set the headers; there is no body yet, so no content length."""
        fields = {**(headers or {}), "content-type": MEDIA_TYPE}
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns when it is complete, raises what ``events`` raises or ``ClientDisconnected``."""
        record = request_record(scope)
        record.farewell = None if self.farewell is None else self._last_words
        silence = record.ping_seconds if self.ping_seconds is None else self.ping_seconds
        writer = _Writer(self, send)
        pinger = asyncio.create_task(writer.ping_when_silent(silence))
        try:
            async with cancel_on_disconnect(receive):
                async for event in self.events:
                    await writer.write(encode_event(event, named=self.named))
            # Outside of the block above: the end of a response counts as a disconnect too.
            await writer.write(DONE if self.done else b"", last=True)
        finally:
            await end_task(pinger)
            await close_iterator(self.events)  # a cancellation that met us in ``send`` left it suspended

    def _last_words(self, error: LocalLLMError) -> bytes:
        return encode_error(error) if self.farewell is None else encode_event(self.farewell(error), named=self.named)


class _Writer:
    """Sends pieces of one stream; the pinger and the stream itself take turns."""

    def __init__(self, response: EventStream, send: Send) -> None:
        self._response = response
        self._send = send
        self._turn = asyncio.Lock()
        self._started = False
        self._last_write = asyncio.get_running_loop().time()

    async def write(self, piece: bytes, *, last: bool = False) -> None:
        async with self._turn:
            if not self._started:
                self._started = True
                response = self._response
                await self._send(
                    {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
                )
            await self._send({"type": "http.response.body", "body": piece, "more_body": not last})
            self._last_write = asyncio.get_running_loop().time()

    async def ping_when_silent(self, silence: float) -> None:
        """Ping for ever. A failing ``send`` ends only the pinger: the stream meets the same failure by itself."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._last_write + silence - loop.time())
            if loop.time() - self._last_write >= silence:
                await self.write(PING)
