"""The endpoints about the server itself: health, readiness, versions."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import UnavailableError
from localllm.server import core_docs
from localllm.server.drain import Drain
from localllm.server.model_host import ModelHost
from localllm.server.model_objects import health_body
from localllm.server.record import request_record
from localllm.server.routes import RouteEntry

LOADING_RETRY_SECONDS = 5

_logger = logging.getLogger("localllm.server")


def core_routes(host: ModelHost, backends: Mapping[str, BackendSpec], drain: Drain) -> list[RouteEntry]:
    """Return the core's own routes. ``public`` ones need no key, and tell those without one nothing about models."""

    async def health(request: Request) -> Response:
        known = request_record(request.scope).authenticated
        return json_response(health_body(host, draining=drain.draining, show_models=known))

    async def ready(request: Request) -> Response:
        if drain.draining:
            message = "The server is shutting down."
            raise UnavailableError(message, retry_after_seconds=drain.retry_after_seconds)
        if host.preloading:
            message = f"The server is loading {', '.join(host.preloading)} (models.preload)."
            raise UnavailableError(message, retry_after_seconds=LOADING_RETRY_SECONDS)
        return json_response({"status": "ready"})

    versions = _versions(list(backends.values()))

    async def show_version(request: Request) -> Response:
        return json_response(await asyncio.to_thread(versions))

    return [
        RouteEntry(Route("/health", health), "health", public=True, probe=True, doc=core_docs.HEALTH),
        RouteEntry(Route("/ready", ready), "ready", public=True, probe=True, doc=core_docs.READY),
        RouteEntry(Route("/version", show_version), "version", doc=core_docs.VERSION),
    ]


def json_response(body: Mapping[str, Any] | Sequence[Any]) -> Response:
    """Return ``body`` as JSON with status 200."""
    return Response(orjson.dumps(body), media_type="application/json")


def _versions(backends: Sequence[BackendSpec]) -> Callable[[], dict[str, Any]]:
    @cache  # reading a native build's name takes a look at its files: in a thread, and once
    def read() -> dict[str, Any]:
        return {
            "version": version("localllm"),
            "python": platform.python_version(),
            "backends": {backend.name: _build_id(backend) for backend in backends},
        }

    return read


def _build_id(backend: BackendSpec) -> str | None:
    """Return the name of an engine's native build; None where it has none, or its library is missing."""
    try:
        return backend.build_id() if backend.build_id else None
    except Exception:
        _logger.exception("the build of engine %s can't be named", backend.name)
        return None
