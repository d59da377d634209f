"""Gives each request its id and its record, and each response the headers that were collected on the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from secrets import token_hex

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server.record import SCOPE_KEY, RequestRecord

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


class RequestId:
    """Outermost: takes a sane ``X-Request-Id`` or makes one, and answers with it."""

    def __init__(self, app: ASGIApp, *, clock: Callable[[], float], ping_seconds: float) -> None:
        self.app = app
        self.clock = clock
        self.ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a fresh record in the scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(
            request_id=given if _SANE_ID.match(given) else f"req_{token_hex(12)}",
            clock=self.clock,
            started_at=self.clock(),
            ping_seconds=self.ping_seconds,
        )
        scope[SCOPE_KEY] = record

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                added = [(b"x-request-id", record.request_id.encode()), *record.response_headers]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)
