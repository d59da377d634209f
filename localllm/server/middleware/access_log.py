"""One log line, and one event, for each request: who was asked, how much, how fast, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.contract.events import Event, RequestFinished
from localllm.server.record import RequestRecord, request_record
from localllm.server.routes import RouteTable

CLIENT_CLOSED = 499
"""What the log calls a request whose client left before the answer began; nginx's number, never sent."""

MAX_TEXT = 200
"""Characters of a text of the caller's in one line, at most."""


class AccessLog:
    """Writes the line when the request is over, however it ended. Neither bodies nor query strings are logged."""

    def __init__(
        self, app: ASGIApp, *, routes: RouteTable, emit: Callable[[Event], None], logger: logging.Logger
    ) -> None:
        self.app = app
        self.routes = routes
        self.emit = emit
        self.logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, then log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self._finish(scope, request_record(scope))

    def _finish(self, scope: Scope, record: RequestRecord) -> None:
        entry = self.routes.find(scope)
        status = CLIENT_CLOSED if record.status is None else record.status
        finish = record.finish or ("cancelled" if record.status is None else "ok" if status < 400 else "error")
        usage = record.usage
        event = RequestFinished(
            request_id=record.request_id,
            endpoint="unmatched" if entry is None else entry.name,
            model=record.model,
            status=status,
            finish=finish,
            duration_seconds=record.clock() - record.started_at,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=None if usage is None else usage.cached_tokens,
            completion_tokens=record.completion_tokens,
            first_token_seconds=record.first_token_seconds,
        )
        level = logging.DEBUG if entry is not None and entry.probe and status < 400 else logging.INFO
        if self.logger.isEnabledFor(level):
            fields = _fields(scope, event, record.tokens_per_second)
            self.logger.log(level, _line(fields), extra={"fields": fields})
        self.emit(event)


def _fields(scope: Scope, event: RequestFinished, tokens_per_second: float | None) -> dict[str, Any]:
    """Return what is logged, in order; what never came about is left out."""
    fields: dict[str, Any] = {
        "request_id": event.request_id,
        "method": scope["method"][:MAX_TEXT],
        "path": quote(scope["path"][:MAX_TEXT], safe="/:@!$&'()*+,;=~"),
        "status": event.status,
        "model": None if event.model is None else printable(event.model),
        "prompt_tokens": event.prompt_tokens,
        "cached_tokens": event.cached_tokens,
        "completion_tokens": event.completion_tokens,
        "first_token_ms": None if event.first_token_seconds is None else round(event.first_token_seconds * 1000, 1),
        "tokens_per_second": None if tokens_per_second is None else round(tokens_per_second, 1),
        "finish": event.finish,
        "duration_ms": round(event.duration_seconds * 1000, 1),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _line(fields: dict[str, Any]) -> str:
    shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in {"method", "path", "status"})
    return f"{fields['method']} {fields['path']} {fields['status']} {shown}"


def printable(text: str) -> str:
    """Return ``text`` on one line: controls and non-ASCII escaped, and bounded in length."""
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")
