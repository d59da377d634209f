"""Refuses requests that are malformed, oversized in their header, or addressed to another host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.config.load import is_loopback
from localllm.server.errors import (
    HeadersTooLargeError,
    HostNotAllowedError,
    MalformedRequestError,
    UnsupportedMediaTypeError,
    UriTooLongError,
)

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 * 1024

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?\Z")


class RequestGuard:
    """Checks header, target and Host before anything else looks at them; closes WebSockets, which nothing serves.

    A page on the attacker's name that resolves to 127.0.0.1 (DNS rebinding) reaches a local server with that name as
    its Host. So only known names are answered; addresses can't be rebound, and are answered wherever we listen
    beyond loopback.
    """

    def __init__(self, app: ASGIApp, *, bound_host: str, allowed_hosts: Sequence[str]) -> None:
        self.app = app
        self.any_host = "*" in allowed_hosts
        names = {"localhost", "127.0.0.1", "::1", bound_host, *allowed_hosts}
        self.names = {name.strip("[]").lower() for name in names}
        self.any_address = not is_loopback(bound_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app on a sound request. Raises the errors of the HTTP level."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server has no WebSocket endpoints"})
            return
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            check_size(scope)
            check_framing(scope, headers)
            self._check_host(headers)
        await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        found = _HOST.match(given[0]) if len(given) == 1 else None
        if found is None:
            message = "The request needs exactly one Host header, with a name or an address."
            raise MalformedRequestError(message)
        name = found["name"].strip("[]").lower()
        if not (self.any_host or name in self.names or (self.any_address and _is_address(name))):
            message = f"This server does not answer for the host {name[:100]!r}; add it to server.allowed_hosts."
            raise HostNotAllowedError(message)


def check_size(scope: Scope) -> None:
    """Bound header and target. Hypercorn bounds what comes slowly, but not what comes in one segment.

    Raises ``HeadersTooLargeError`` or ``UriTooLongError``.
    """
    fields = scope["headers"]
    if len(fields) > MAX_HEADERS or sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEADER_BYTES:
        message = f"The header is larger than {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} fields."
        raise HeadersTooLargeError(message)
    if len(scope.get("raw_path") or b"") > MAX_TARGET_BYTES:
        message = f"The request target is longer than {MAX_TARGET_BYTES} bytes."
        raise UriTooLongError(message)


def check_framing(scope: Scope, headers: Headers) -> None:
    """Refuse what two servers in a row could read differently, and bodies in an encoding that could be a bomb.

    Raises ``MalformedRequestError``, and ``UnsupportedMediaTypeError`` for the encoding.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        message = "The request has both Content-Length and Transfer-Encoding."
        raise MalformedRequestError(message)
    if not scope["path"].startswith("/"):
        message = "The request target must be a path that begins with '/'."
        raise MalformedRequestError(message)
    encodings = {value.strip().lower() for value in ",".join(headers.getlist("content-encoding")).split(",")}
    if not encodings <= {"", "identity"}:
        message = "The body's content encoding must be identity; this server reads no compressed bodies."
        raise UnsupportedMediaTypeError(message)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
