"""Lets new work in only while the server is not shutting down, and knows what is still open."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.contract.errors import UnavailableError
from localllm.server.drain import Drain
from localllm.server.record import request_record
from localllm.server.routes import RouteTable


class DrainGate:
    """Registers each request with the :class:`Drain`, which may interrupt it. Probes pass at all times."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, drain: Drain) -> None:
        self.app = app
        self.routes = routes
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app. Raises ``UnavailableError`` for new work, and for old work when its time is over."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        entry = self.routes.find(scope)
        if self.drain.draining:
            request_record(scope).response_headers.append((b"connection", b"close"))
            if entry is None or not entry.probe:
                message = "The server is shutting down."
                raise UnavailableError(message, retry_after_seconds=self.drain.retry_after_seconds)
        with self.drain.open_request():
            await self.app(scope, receive, send)
