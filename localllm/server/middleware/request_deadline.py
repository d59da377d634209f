"""Ends a request that has run for longer than any request may."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.server.errors import DeadlineExceededError
from localllm.server.interruption import Interruption


class RequestDeadline:
    """Cancels the handler after ``seconds``, waiting included, and raises ``DeadlineExceededError``.

    Also the net below disconnects that can't be seen: a client that sends a byte too many stops Hypercorn's reading.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app under the deadline."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reason = f"The request ran for longer than {self.seconds:g} seconds (server.request_timeout_seconds)."
        with Interruption() as interruption:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self.seconds, interruption.interrupt, DeadlineExceededError(reason))
            try:
                await self.app(scope, receive, send)
            finally:
                timer.cancel()
