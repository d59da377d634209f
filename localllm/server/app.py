"""Puts the app together: which routes there are, and which middleware a request passes, in which order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from localllm.config.schema import Config
from localllm.models.pulls import Pulls
from localllm.plugin_discovery import PluginError
from localllm.server.admin_routes import admin_routes
from localllm.server.core_routes import core_routes
from localllm.server.disconnect import end_task
from localllm.server.docs_routes import docs_routes
from localllm.server.drain import Drain
from localllm.server.errors import error_response, internal_error
from localllm.server.front_page import front_routes
from localllm.server.middleware.access_log import AccessLog
from localllm.server.middleware.api_key import ApiKey
from localllm.server.middleware.base_path import BasePath
from localllm.server.middleware.body_guard import BodyGuard
from localllm.server.middleware.drain_gate import DrainGate
from localllm.server.middleware.error_layer import ErrorLayer
from localllm.server.middleware.origin_guard import OriginGuard
from localllm.server.middleware.request_deadline import RequestDeadline
from localllm.server.middleware.request_guard import RequestGuard
from localllm.server.middleware.request_id import RequestId
from localllm.server.middleware.send_deadline import SendDeadline
from localllm.server.model_host import ModelHost
from localllm.server.model_routes import model_routes
from localllm.server.pull_routes import pull_routes
from localllm.server.record import request_record
from localllm.server.reload import Outcome
from localllm.server.routes import RouteEntry, RouteTable

if TYPE_CHECKING:
    from localllm.plugin_manager import PluginManager


def build_app(
    config: Config,
    plugins: PluginManager,
    host: ModelHost,
    *,
    drain: Drain | None = None,
    clock: Callable[[], float] = time.monotonic,
    reload: Callable[[], Awaitable[Outcome]] | None = None,
    pulls: Pulls | None = None,
) -> Starlette:
    """Return the whole server as one ASGI app.

    ``plugins`` have registered and are bound to ``host``. The app's lifespan enters the plugins' life cycles and keeps
    the host's background work running; at its end all workers are gone. ``drain`` is what a shutdown acts on, and
    ``reload`` what ``POST /v1/admin/reload`` does, ``pulls`` what fetches models; without them there are no such
    routes.
    Raises ``PluginError`` when a plugin's route has the name or the path of one of the core's.
    """
    drain = drain or Drain()
    core = [
        *(pull_routes(config, host, pulls) if pulls else []),
        *model_routes(host),
        *core_routes(host, plugins.backends, drain),
        *front_routes(host, pulls, has_docs=config.server.docs),
    ]
    core += admin_routes(reload) if reload else []
    if config.server.docs:
        core += docs_routes(lambda: routes.entries, has_keys=bool(config.server.api_keys))
    routes = RouteTable(_entries(core, plugins))
    app = Starlette(
        routes=[entry.route for entry in routes.entries],
        middleware=_middleware(config, plugins, routes, drain, clock),
        exception_handlers={HTTPException: _leave_to_error_layer, Exception: _last_resort(routes)},
        lifespan=_lifespan(plugins, host),
    )
    app.router.redirect_slashes = False  # a redirect would be built from the Host header, and drops a POST's body
    return app


def _middleware(
    config: Config, plugins: PluginManager, routes: RouteTable, drain: Drain, clock: Callable[[], float]
) -> list[Middleware]:
    """Return the stack, outermost first. What comes above the error layer raises nothing of its own."""
    server = config.server
    logger = logging.getLogger("localllm.server")
    access = logging.getLogger("localllm.access")
    outer = [one.middleware for one in plugins.middleware if one.position == "outer"]
    inner = [one.middleware for one in plugins.middleware if one.position == "inner"]
    return [
        # everything below sees the one path of an endpoint, and its routes, however it was asked
        Middleware(BasePath),
        # every response gets its id and collected headers; every request its line in the log
        Middleware(RequestId, clock=clock, ping_seconds=server.ping_seconds),
        Middleware(AccessLog, routes=routes, emit=plugins.emit, logger=access),
        # what a client may send, and how slowly it may read
        Middleware(SendDeadline, seconds=server.send_timeout_seconds),
        Middleware(
            BodyGuard,
            routes=routes,
            max_body_bytes=server.max_body_bytes,
            timeout_seconds=server.body_timeout_seconds,
        ),
        # from here on an exception is an answer
        Middleware(ErrorLayer, routes=routes, logger=logger),
        Middleware(RequestGuard, bound_host=server.host, allowed_hosts=server.allowed_hosts),
        Middleware(OriginGuard, cors_origins=server.cors_origins),
        Middleware(DrainGate, routes=routes, drain=drain),
        *outer,
        Middleware(ApiKey, routes=routes, keys=server.api_keys, share_prefix_cache=config.models.share_prefix_cache),
        Middleware(RequestDeadline, seconds=server.request_timeout_seconds),
        *inner,
    ]


def _entries(core: list[RouteEntry], plugins: PluginManager) -> list[RouteEntry]:
    """Return all routes, the core's first; a plugin can't take the core's places, and must not find out by silence."""
    names = {entry.name for entry in core}
    paths = {getattr(entry.route, "path", None): entry.name for entry in core}
    entries = list(core)
    for one in plugins.routes:
        path = getattr(one.route, "path", None)
        if one.name in names or path in paths:
            message = f"{one.plugin}: the route {one.name!r} ({path}) is the core's own; choose another"
            raise PluginError(message)
        entries.append(
            RouteEntry(
                one.route,
                one.name,
                max_body_bytes=one.max_body_bytes,
                public=one.public,
                errors=one.errors,
                doc=one.doc,
            )
        )
    return entries


def _lifespan(
    plugins: PluginManager, host: ModelHost
) -> Callable[[Starlette], AbstractAsyncContextManager[None, bool | None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _, cycle in plugins.lifespans():
                await stack.enter_async_context(cycle)
            stack.push_async_callback(host.close)
            background = asyncio.create_task(_run_host(host))
            stack.push_async_callback(end_task, background)
            yield

    return lifespan


async def _run_host(host: ModelHost) -> None:
    try:
        await host.run()
    except Exception:
        logging.getLogger("localllm.server").exception("the models' background work ended; idle ones stay loaded")


def _leave_to_error_layer(request: Request, error: Exception) -> NoReturn:
    """Starlette would answer in plain text."""
    raise error


def _last_resort(routes: RouteTable) -> Callable[[Request, Exception], Response]:
    """Return what answers for a fault above the error layer, that is in our own middleware."""

    def answer(request: Request, error: Exception) -> Response:
        failure = internal_error(request_record(request.scope).request_id)
        return error_response(failure, form=routes.error_form(request.scope))

    return answer
