"""Drops a client that asks for an answer and then does not read it."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.contract.errors import SlowReaderError
from localllm.server.connection import abort_connection

PIECE_BYTES = 64 * 1024
"""A long body goes out in pieces, so that the deadline asks for progress and not for a fast line."""


class SendDeadline:
    """Allows ``seconds`` for each piece to be taken; then the connection is cut and ``SlowReaderError`` raised.

    Neither Hypercorn nor asyncio has a write timeout: ``send`` would wait for ever, and hold the model's slot. After
    the cut every ``send`` raises: it may have been a ping that met the first error, and not the stream itself.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a ``send`` that has a deadline."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cut = False

        async def send_piece(message: Message) -> None:
            nonlocal cut
            if cut:
                raise self._error()
            try:
                async with asyncio.timeout(self.seconds):
                    await send(message)
            except TimeoutError:
                cut = True
                abort_connection(scope)
                raise self._error() from None

        async def send_in_time(message: Message) -> None:
            body = message.get("body", b"") if message["type"] == "http.response.body" else b""
            for start in range(0, max(len(body) - PIECE_BYTES, 0), PIECE_BYTES):
                await send_piece({**message, "body": body[start : start + PIECE_BYTES], "more_body": True})
            rest = (len(body) - 1) // PIECE_BYTES * PIECE_BYTES if body else 0
            await send_piece({**message, "body": body[rest:]} if rest else message)

        await self.app(scope, receive, send_in_time)

    def _error(self) -> SlowReaderError:
        return SlowReaderError(f"The client left its answer unread for {self.seconds:g} seconds.")
