"""Routes that word failures as a bare detail do so for every failure, whoever finds it."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from localllm.contract.errors import OverloadedError
from localllm.server.errors import error_json
from localllm.server.json_body import read_json
from localllm.server.sse import EventStream
from tests.server.kit import FakeHost, FakePlugins, Kit, make_kit, run

FORMS = ["openai", "detail"]


async def echo(request: Request) -> Response:
    return Response(orjson.dumps(await read_json(request)), media_type="application/json")


async def busy(request: Request) -> Response:
    raise OverloadedError("The queue is full.", retry_after_seconds=7)


async def teapot(request: Request) -> Response:
    raise HTTPException(418, "short and stout")


async def boom(request: Request) -> Response:
    raise ZeroDivisionError("secret")


async def broken_stream(request: Request) -> Response:
    async def events() -> Any:
        yield {"n": 1}
        raise OverloadedError("No more.")

    return EventStream(events())


def kit_of(form: str, **server: Any) -> Kit:
    plugins = FakePlugins(FakeHost())
    for handler in (echo, busy, teapot, boom, broken_stream):
        plugins.add(f"/api/{handler.__name__}", handler, errors=form, max_body_bytes=1000)
    return make_kit(plugins=plugins, **server)


def message_of(response: httpx.Response, form: str) -> str:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    if form == "detail":
        assert list(body) == ["detail"]
        return str(body["detail"])
    assert list(body) == ["error"]
    return str(body["error"]["message"])


def ask(kit: Kit, path: str, *, method: str = "POST", **options: Any) -> httpx.Response:
    return run(kit.request(method, path, **{"json": {}, **options}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path", "options", "status", "words"),
    [
        ("/api/busy", {}, 503, "queue is full"),
        ("/api/teapot", {}, 418, "short and stout"),
        ("/api/boom", {}, 500, "request id"),
        ("/api/echo", {"json": {"x": "y" * 2000}}, 413, "longer than 1000 bytes"),
        ("/api/echo", {"json": ["x"]}, 400, "must be a JSON object"),
        ("/api/echo", {"headers": {"host": "evil.example"}}, 403, "evil.example"),
        ("/api/echo", {"headers": {"origin": "https://evil.example"}}, 403, "origin"),
        ("/api/echo", {"headers": {"content-encoding": "gzip"}}, 415, "encoding"),
        ("/api/echo", {"method": "GET"}, 405, "/api/echo takes POST, not GET."),
        ("/api/echo", {"method": "PUT"}, 405, "/api/echo takes POST, not PUT."),
    ],
)
def test_each_failure(form: str, path: str, options: Any, status: int, words: str) -> None:
    response = ask(kit_of(form), path, **options)
    assert response.status_code == status
    assert words in message_of(response, form)


def test_a_path_that_is_none_says_where_clients_go() -> None:
    message = message_of(ask(kit_of("openai"), "/v1/v1/chat/completions"), "openai")
    assert message.startswith("There is no endpoint at /v1/v1/chat/completions:")
    assert "base URL" in message
    assert len(message_of(ask(kit_of("openai"), "/" + "x" * 5000), "openai")) < 400


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_key(form: str) -> None:
    response = ask(kit_of(form, api_keys=["sk-x"]), "/api/echo")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert "API key" in message_of(response, form)


def test_headers_stay_what_they_are() -> None:
    response = ask(kit_of("detail"), "/api/busy")
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("form", FORMS)
def test_a_server_that_goes(form: str) -> None:
    kit = kit_of(form)
    kit.drain.draining = True
    assert "shutting down" in message_of(ask(kit, "/api/echo"), form)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_breaks(form: str) -> None:
    response = ask(kit_of(form), "/api/broken_stream")
    last = orjson.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert list(last) == (["detail"] if form == "detail" else ["error"])


def test_other_routes_of_the_same_server_keep_their_form() -> None:
    kit = kit_of("detail")
    for path in ("/tiny", "/v1/models/none", "/nowhere", "/api/nowhere"):
        assert list(ask(kit, path, method="GET").json()) == ["error"]


def test_a_text_that_json_cant_hold() -> None:
    assert orjson.loads(error_json(OverloadedError("half \ud800"), "detail")) == {"detail": "half ?"}
