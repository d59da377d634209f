"""One error shape everywhere, from every layer, and a table that the documentation explains in full."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
from pathlib import Path

import orjson
import pytest
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import localllm.server
from localllm.contract.errors import InvalidRequestError, LocalLLMError, ModelLoadError, OverloadedError
from localllm.server.errors import ERROR_KINDS, error_body, error_kind, error_response
from tests.server.kit import FakeHost, FakePlugins, Kit, Raw, make_kit, run, statuses

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


def known_errors() -> dict[str, type[LocalLLMError]]:
    for module in pkgutil.walk_packages(localllm.server.__path__, "localllm.server."):
        importlib.import_module(module.name)
    found: dict[str, type[LocalLLMError]] = {LocalLLMError.code: LocalLLMError}
    waiting = LocalLLMError.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("localllm."):
            found[kind.code] = kind
    return found


def test_the_table_has_every_code() -> None:
    assert set(ERROR_KINDS) == set(known_errors())


def test_the_documentation_has_every_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \| .{20,} \| .{10,} \|$", DOCS.read_text(), re.MULTILINE)
    documented = {code: (int(status), kind) for code, status, kind in rows}
    assert len(documented) == len(rows)
    assert documented == {code: (kind.status, kind.type) for code, kind in ERROR_KINDS.items()}


def test_a_plugin_s_error_counts_as_its_nearest_base() -> None:
    class OurError(InvalidRequestError):
        code = "test_our_error"

    assert error_kind(OurError("no")).status == 400
    assert error_body(OurError("no"))["error"]["code"] == "test_our_error"


def test_details_stand_beside_the_four_keys_and_never_replace_them() -> None:
    error = InvalidRequestError("m", param="p", detail={"message": "x", "code": 7, "type": 0, "param": 1, "extra": [2]})
    assert error_body(error) == {
        "error": {
            "message": "m",
            "type": "invalid_request_error",
            "param": "p",
            "code": "invalid_request",
            "extra": [2],
        }
    }


def test_texts_that_json_cannot_hold() -> None:
    error = InvalidRequestError("bad \ud800", param="\udfff", detail={"odd": object()})
    body = orjson.loads(bytes(error_response(error).body))
    assert body["error"]["message"] == "bad ?"
    assert body["error"]["param"] == "?"


def test_retry_after() -> None:
    assert error_response(OverloadedError("full", retry_after_seconds=7)).headers["retry-after"] == "7"
    assert "retry-after" not in error_response(ModelLoadError("no")).headers


def check_shape(kit_or_body: object) -> dict[str, object]:
    error = kit_or_body["error"]  # type: ignore[index]
    assert list(kit_or_body) == ["error"]  # type: ignore[call-overload]
    assert {"message", "type", "param", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] in ERROR_KINDS
    return error  # type: ignore[no-any-return]


BAD = {
    "no body": {"content": b""},
    "no json": {"content": b"{", "headers": {"content-type": "application/json"}},
    "list": {"json": []},
    "wrong type": {"content": b"{}", "headers": {"content-type": "text/plain"}},
    "form": {"data": {"a": "b"}},
    "surrogate": {"content": b'{"model": "\\ud800"}', "headers": {"content-type": "application/json"}},
    "unknown model": {"json": {"model": "no\x1b[31m\nsuch"}},
    "wrong model": {"json": {"model": "embedder"}},
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_on_every_route(bad: str) -> None:
    kit = make_kit()

    async def scenario() -> None:
        paths = {entry.path.replace("{id:path}", "x") for entry in kit.app.routes}  # type: ignore[attr-defined]
        for path in sorted(paths - {"/half"}):  # that one never completes its answer; it has its own test
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
                response = await kit.request(method, path, **BAD[bad])
                assert response.headers["x-request-id"]
                if response.status_code < 400 or method == "HEAD":
                    continue
                assert response.headers["content-type"] == "application/json"
                error = check_shape(response.json())
                faults = {500: {"internal_error"}, 405: {"method_not_allowed"}}.get(response.status_code)
                assert faults is None or error["code"] in faults
                assert (response.status_code == 500) is (path == "/boom" and method == "GET")

    run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/V1/models", 404, "not_found"),
        ("POST", "/echo/", 404, "not_found"),
    ],
)
def test_routing_errors(method: str, path: str, status: int, code: str) -> None:
    response = run(make_kit().request(method, f"http://localhost:8000{path}"))
    assert response.status_code == status
    assert check_shape(response.json())["code"] == code


def test_method_not_allowed_names_the_methods_of_all_routes_with_that_path() -> None:
    response = run(make_kit().request("PUT", "/v1/models/load", json={}))
    assert response.headers["allow"] == "GET, HEAD, POST"  # loads models, and is one that is called "load"


def test_method_not_allowed_names_the_methods() -> None:
    response = run(make_kit().request("GET", "/echo"))
    assert response.headers["allow"] == "POST"


def test_an_unexpected_exception_tells_nothing_but_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    response = run(make_kit().request("GET", "/boom", headers={"x-request-id": "abc"}))
    assert response.status_code == 500
    assert check_shape(response.json())["message"].endswith("under request id abc.")
    assert "secret detail" not in response.text
    assert "request abc failed" in caplog.text
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_an_http_exception_of_a_plugin_keeps_its_status_and_headers() -> None:
    response = run(make_kit().request("GET", "/teapot"))
    assert response.status_code == 418
    assert response.headers["x-spout"] == "yes"
    assert check_shape(response.json())["message"] == "short and stout"


def test_half_an_answer_is_not_passed_off_as_a_whole_one() -> None:
    async def scenario() -> bytes:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n")
            data = await raw.rest()
            raw.abort()
            return data

    data = run(scenario())
    assert b"first half" in data
    assert not data.endswith(b"0\r\n\r\n")


class Faulty:
    """Middleware of a plugin that fails."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise ZeroDivisionError
        await self.app(scope, receive, send)


@pytest.mark.parametrize("position", ["outer", "inner"])
def test_a_failing_middleware_of_a_plugin(position: str) -> None:
    plugins = FakePlugins(FakeHost())
    plugins.wrap(Middleware(Faulty), position)
    response = run(make_kit(plugins=plugins).request("GET", "/health"))
    assert response.status_code == 500
    check_shape(response.json())


POST_JSON = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
RAW_REQUESTS = {
    "length and chunked": (POST_JSON + b"Content-Length: 4\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", 400),
    "two lengths": (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "negative length": (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{}", 400),
    "bad chunk": (POST_JSON + CHUNKED + b"ZZ\r\n{}\r\n0\r\n\r\n", 400),
    "unknown coding": (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "nul in header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", 400),
    "nul in target": (b"GET /he\0alth HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "folded header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nHost: evil.com\r\n\r\n", 400),
    "space before colon": (b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "100 KB header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "absolute form": (b"GET http://evil.com/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    "http 0.9": (b"GET /health\r\n\r\n", 400),
    "http 3.0": (b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
    "rubbish": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "ansi": (b"GET /\x1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_REQUESTS)
def test_malformed_http_gets_one_answer_and_the_door(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data, status = RAW_REQUESTS[name]

    async def scenario() -> bytes:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(data + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await raw.rest()
            raw.abort()
            return answer

    answer = run(scenario())
    assert statuses(answer) == [status]
    check_shape(orjson.loads(answer.partition(b"\r\n\r\n")[2]))
    assert "Traceback" not in caplog.text


def test_upgrades_to_http2_are_ignored() -> None:
    async def scenario() -> list[int]:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                           b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")  # fmt: skip
            answer = await raw.until(b"}")
            raw.abort()
            return statuses(answer)

    assert run(scenario()) == [200]


def test_a_body_that_is_cut_off_reaches_no_handler() -> None:
    async def scenario() -> Kit:
        kit = make_kit()
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            raw.writer.write_eof()
            await asyncio.wait_for(kit.plugins.logged.wait(), 20)
            raw.abort()
        return kit

    kit = run(scenario())
    assert kit.host.client.requests == []
    assert kit.plugins.events[0].finish == "cancelled"


def test_a_route_of_a_plugin_can_not_take_the_core_s_place() -> None:
    async def health(request: Request) -> Response:
        return Response("mine")

    for path, name in (("/health", "mine"), ("/mine", "health")):
        plugins = FakePlugins(FakeHost())
        plugins.add(path, health, name=name)
        with pytest.raises(Exception, match="the core's own"):
            make_kit(plugins=plugins)
