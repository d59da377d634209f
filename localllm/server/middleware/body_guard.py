"""Bounds what a client may upload, and how slowly, and answers early refusals in a way that the client can read."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server.disconnect import end_task
from localllm.server.errors import BodyTimeoutError, RequestTooLargeError
from localllm.server.routes import RouteTable

LINGER_SECONDS = 2.0
"""How long an upload that nobody wants is thrown away after the answer, so that a reset doesn't destroy the answer."""

SMALL_BYTES = 64 * 1024
"""An unwanted upload of this announced size is waited for, and the connection kept."""

LENGTH_DIGITS = 20
"""What h11 takes as a Content-Length, leading zeros included (``CONTENT_LENGTH_MAX_DIGITS``)."""


class BodyGuard:
    """Counts body bytes as they come (whatever was announced), with a deadline for the whole body."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, max_body_bytes: int, timeout_seconds: float) -> None:
        self.app = app
        self.routes = routes
        self.max_body_bytes = max_body_bytes
        self.timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app on the guarded body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        entry = self.routes.find(scope)
        limit = entry.max_body_bytes if entry is not None else None
        body = _Body(scope, receive, send, self.max_body_bytes if limit is None else limit, self.timeout_seconds)
        await self.app(scope, body.receive, body.send)


class _Body:
    """One request's body on its way in, and the response on its way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int, timeout_seconds: float) -> None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        is_number = length.isascii() and length.isdigit() and len(length) <= LENGTH_DIGITS
        self._announced = int(length) if is_number else 0
        # What is no number is no promise that nothing comes.
        self._complete = is_number and self._announced == 0 and "transfer-encoding" not in headers
        self._receive = receive
        self._send = send
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._received = 0

    async def receive(self) -> Message:
        """Return the next message. Raises ``RequestTooLargeError`` and ``BodyTimeoutError``."""
        if self._complete:
            return await self._receive()
        if self._announced > self._limit:
            raise RequestTooLargeError(self._limit)
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            reason = f"The request body did not arrive within {self._timeout_seconds:g} seconds."
            raise BodyTimeoutError(reason) from None
        self._received += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete = True
        if self._received > self._limit:
            raise RequestTooLargeError(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """Pass the response on; before its end, get rid of what is left of the body.

        Hypercorn's queue for a request holds ten messages. Were it left full, the end of the response would wait for
        room in it, for ever.
        """
        if self._complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            await self._send(message if self._is_small() else _closing(message))
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            discard = asyncio.create_task(self._discard())
            try:
                await asyncio.wait([discard], timeout=LINGER_SECONDS)
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await end_task(discard)

    def _is_small(self) -> bool:
        return 0 < self._announced <= SMALL_BYTES

    async def _discard(self) -> None:
        while not self._complete:
            message = await self._receive()
            self._complete = message["type"] != "http.request" or not message.get("more_body", False)


def _closing(message: Message) -> Message:
    headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
    return {**message, "headers": [*headers, (b"connection", b"close")]}
