"""Asks for an API key on every route that is not public, and for every path that is no route at all."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.contract.errors import InvalidRequestError
from localllm.server.errors import InvalidApiKeyError
from localllm.server.record import request_record
from localllm.server.routes import RouteTable

FINGERPRINT_CHARACTERS = 16


def fingerprint(key: str) -> str:
    """Return the short name by which a key's prefixes are kept apart from others'; it doesn't give the key away."""
    return hashlib.sha256(key.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def credential(headers: Headers) -> str | None:
    """Return the one credential that a request brings, from whichever header. Two different ones are an error."""
    given = set(headers.getlist("x-api-key"))
    for value in headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":  # a proxy's own scheme is its own business
            given.add(token.strip())
    given.discard("")
    if len(given) > 1:
        message = "The request brings two different API keys; send one, as 'Authorization: Bearer' or as 'x-api-key'."
        raise InvalidRequestError(message)
    return given.pop() if given else None


class ApiKey:
    """Checks the key and notes its owner. Off, with everybody the same owner, when no keys are configured."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, keys: Sequence[str], share_prefix_cache: bool) -> None:
        self.app = app
        self.routes = routes
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.share_prefix_cache = share_prefix_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app for callers that may. Raises ``InvalidApiKeyError`` before anything is routed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = request_record(scope)
        record.authenticated = not self.digests
        if self.digests:
            key = credential(Headers(scope=scope))
            if key is not None and self._is_known(key):
                record.authenticated = True
                record.caller = fingerprint(key)
                record.owner = "" if self.share_prefix_cache else record.caller
            elif not self._is_public(scope):
                raise InvalidApiKeyError(_MISSING if key is None else _UNKNOWN)
        await self.app(scope, receive, send)

    def _is_known(self, key: str) -> bool:
        # Digests, and all of them, whatever is found: the time says nothing about how much of a key was right.
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return any(matches)

    def _is_public(self, scope: Scope) -> bool:
        entry = self.routes.find(scope)
        return entry is not None and entry.public


_MISSING = "This server asks for an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
_UNKNOWN = "The API key is not one that this server knows."
