"""Keeps web pages of other origins out, except for those that the configuration lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.server.errors import OriginNotAllowedError
from localllm.server.record import request_record

MAX_AGE_SECONDS = 600

_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*\Z")
_EXPOSED = b"x-request-id, retry-after"


class OriginGuard:
    """Refuses a foreign page's requests, simple ones too, and answers the preflights of allowed pages.

    A browser sends a form's or a ``no-cors`` POST anywhere without asking; only the server can refuse it, by its
    ``Origin``, or by ``Sec-Fetch-Site`` where there is no Origin. Programs that are no browsers send neither.
    """

    def __init__(self, app: ASGIApp, *, cors_origins: Sequence[str]) -> None:
        self.app = app
        self.any_origin = "*" in cors_origins
        self.origins = {origin.rstrip("/").lower() for origin in cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app unless a foreign page asks. Raises ``OriginNotAllowedError``."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = self._check(headers)
        if origin is not None:
            allow = b"*" if self.any_origin else origin.encode("latin-1")
            added = [(b"access-control-allow-origin", allow), (b"access-control-expose-headers", _EXPOSED)]
            request_record(scope).response_headers += added if self.any_origin else [*added, (b"vary", b"origin")]
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, headers: Headers) -> str | None:
        """Return the listed origin that asks; None for our own pages and for callers that are no pages."""
        origins = headers.getlist("origin")
        if not origins:
            if headers.get("sec-fetch-site", "").lower() == "cross-site" and not self.any_origin:
                message = "A page of another site may not call this server; add its origin to server.cors_origins."
                raise OriginNotAllowedError(message)
            return None
        origin = origins[0]
        if len(origins) == 1:
            if self.any_origin or (origin != "null" and origin.lower() in self.origins):
                return origin
            if origin.lower() in {f"{scheme}://{headers.get('host', '').lower()}" for scheme in ("http", "https")}:
                return None
        message = f"The origin {origin[:100]!r} may not call this server; add it to server.cors_origins."
        raise OriginNotAllowedError(message)


def _preflight(headers: Headers) -> Response:
    asked = headers.get("access-control-request-headers", "")
    answer = {
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
        "access-control-max-age": str(MAX_AGE_SECONDS),
    }
    if _TOKENS.match(asked):
        answer["access-control-allow-headers"] = asked  # whoever may call may send what an SDK adds
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=answer)
