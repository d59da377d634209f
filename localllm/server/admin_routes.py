"""The endpoints for whoever runs the server: reading the configuration again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.server import core_docs
from localllm.server.core_routes import json_response
from localllm.server.reload import Outcome
from localllm.server.routes import RouteEntry


def admin_routes(reload: Callable[[], Awaitable[Outcome]]) -> list[RouteEntry]:
    """Return the routes. They need an API key like all that are not public."""

    async def reload_configuration(request: Request) -> Response:
        return json_response((await reload()).to_plain())

    route = Route("/v1/admin/reload", reload_configuration, methods=["POST"])
    return [RouteEntry(route, "reload", doc=core_docs.RELOAD)]
