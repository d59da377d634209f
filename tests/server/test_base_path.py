"""Everything below ``/v1`` is below ``/openai/v1`` too, with the same limits and the same check of the key."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.server.middleware.base_path import BasePath
from tests.server.kit import FakeHost, FakePlugins, make_kit, run


async def show(request: Request) -> Response:
    return JSONResponse({"path": request.scope["path"], "raw": request.scope["raw_path"].decode()})


def make_plugins() -> FakePlugins:
    plugins = FakePlugins(FakeHost())
    plugins.add("/v1/show/{rest:path}", show, methods=["GET", "POST"], max_body_bytes=100)
    return plugins


def ask(path: str, method: str = "GET", **options: Any) -> Any:
    server = options.pop("server", {})
    return run(make_kit(plugins=make_plugins(), **server).request(method, path, **options))


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/openai/v1/show/a", "/v1/show/a"),
        ("/openai/v1/show/a%2Fb", "/v1/show/a/b"),
        ("/openai/v1/show/openai/v1/x", "/v1/show/openai/v1/x"),
        ("/openai/v1/show/%6Fpenai", "/v1/show/openai"),
        ("/v1/show/a", "/v1/show/a"),
    ],
)
def test_routes_see_one_path(path: str, seen: str) -> None:
    body = ask(path).json()
    assert body["path"] == seen
    assert body["raw"] == path.removeprefix("/openai")


@pytest.mark.parametrize(
    "path",
    [
        "/openai%2Fv1/models",
        "/%6Fpenai/v1/models",
        "/openai/%761/models",
        "/openai/openai/v1/models",
        "/openai//v1/models",
        "/openai/v1models",
        "/openai/v2/rerank",
        "/openai/models",
        "/openai/health",
        "/openai",
        "/openai/",
        "/OPENAI/v1/models",
        "/openai/v1",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    assert ask(path).status_code == 404


def test_real_endpoints() -> None:
    assert ask("/openai/v1/models").json() == ask("/v1/models").json()
    assert ask("/openai/v1/models/demo").json()["id"] == "demo"
    assert ask("/openai/v1/models/org%2Fname%3AQ4").json()["id"] == "org/name:Q4"


def test_limits_of_the_route_hold() -> None:
    assert ask("/openai/v1/show/a", "POST", content=b"x" * 50).status_code == 200
    options = {"content": b"x" * 2000, "headers": {"content-type": "application/json"}}
    answer = ask("/openai/v1/models/load", "POST", **options, server={"max_body_bytes": 1024})
    assert answer.status_code == 413


def test_the_key_is_asked_for() -> None:
    server = {"api_keys": ["sk-x"]}
    assert ask("/openai/v1/models", server=server).status_code == 401
    assert ask("/openai/v1/models", server=server, headers={"authorization": "Bearer sk-x"}).status_code == 200


def test_the_log_names_the_route(caplog: pytest.LogCaptureFixture) -> None:
    plugins = make_plugins()
    with caplog.at_level(logging.INFO, logger="localllm.access"):
        run(make_kit(plugins=plugins).request("GET", "/openai/v1/models"))
    assert "GET /v1/models 200" in caplog.text
    assert plugins.events[-1].endpoint == "models"  # type: ignore[union-attr]


def test_a_server_that_gives_no_raw_path() -> None:
    scope: dict[str, Any] = {"type": "http", "path": "/openai/v1/models"}
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    asyncio.run(BasePath(app)(scope, None, None))  # type: ignore[arg-type]
    assert seen == ["/v1/models"]
