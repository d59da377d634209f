"""Middleware meets more than HTTP: start-up messages pass through all of it, WebSockets are turned away."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server.drain import Drain
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
from localllm.server.routes import RouteTable
from tests.server.kit import make_kit, run

ROUTES = RouteTable([])
LOGGER = logging.getLogger("test")
LAYERS: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "BasePath": BasePath,
    "RequestId": lambda app: RequestId(app, clock=lambda: 0.0, ping_seconds=1),
    "AccessLog": lambda app: AccessLog(app, routes=ROUTES, emit=lambda event: None, logger=LOGGER),
    "SendDeadline": lambda app: SendDeadline(app, seconds=1),
    "BodyGuard": lambda app: BodyGuard(app, routes=ROUTES, max_body_bytes=1, timeout_seconds=1),
    "ErrorLayer": lambda app: ErrorLayer(app, routes=ROUTES, logger=LOGGER),
    "RequestGuard": lambda app: RequestGuard(app, bound_host="127.0.0.1", allowed_hosts=[]),
    "OriginGuard": lambda app: OriginGuard(app, cors_origins=[]),
    "DrainGate": lambda app: DrainGate(app, routes=ROUTES, drain=Drain()),
    "ApiKey": lambda app: ApiKey(app, routes=ROUTES, keys=["k"], share_prefix_cache=False),
    "RequestDeadline": lambda app: RequestDeadline(app, seconds=1),
}


def test_all_layers_are_here() -> None:
    stack = {one.cls.__name__ for one in make_kit().app.user_middleware}  # type: ignore[attr-defined]
    assert stack == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_foreign_scopes(layer: str, kind: str) -> None:
    """A layer that read ``scope["path"]`` of a lifespan would break the start without a word."""
    seen: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": f"{kind}.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind}
    run(LAYERS[layer](app)(scope, receive, send))  # type: ignore[arg-type]
    if layer == "RequestGuard" and kind == "websocket":
        assert seen == []
        assert sent[0]["type"] == "websocket.close"
    else:
        assert seen == [{"type": kind}]
        assert sent == []


def test_no_websocket_gets_in() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/echo", "headers": [], "query_string": b"", "subprotocols": []}
    run(make_kit().app(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
