"""Host, origin, sizes and framing: what reaches the app, and what is refused before anything happens."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.server.kit import Kit, Raw, make_kit, run, statuses


def ask(kit: Kit, method: str = "POST", path: str = "/echo", **options: object) -> httpx.Response:
    if method == "POST":
        options.setdefault("json", {})
    return run(kit.request(method, path, **options))


HOSTS = [
    ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1", 200), ("127.0.0.1:8000", 200),
    ("[::1]", 200), ("[::1]:8000", 200), ("box.example", 200), ("Box.Example:80", 200),
    ("evil.com", 403), ("127.0.0.1.evil.com", 403), ("localhost.evil.com", 403), ("localhost.", 403),
    ("192.168.1.2", 403), ("127.0.0.2", 403), ("[::2]", 403), ("[fe80::1]:8000", 403),
    ("", 400), ("a/?x", 400), ("localhost#", 400), ("user@localhost", 400), ("localhost:port", 400),
    ("localhost:", 400), ("localhost, evil.com", 400), ("::1", 400), ("[::1", 400), ("http://localhost", 400),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_host(host: str, status: int) -> None:
    kit = make_kit(allowed_hosts=["box.example"])
    response = ask(kit, headers={"host": host})
    assert response.status_code == status
    if status != 200:
        code = {400: "malformed_request", 403: "host_not_allowed"}[status]
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [("0.0.0.0", "192.168.1.2:8000", 200), ("0.0.0.0", "[fe80::1]", 200), ("0.0.0.0", "evil.com", 403),
     ("10.1.2.3", "10.1.2.3", 200), ("::", "10.1.2.3", 200), ("127.0.0.1", "10.1.2.3", 403),
     ("box.lan", "box.lan", 200)],
)  # fmt: skip
def test_host_beyond_loopback(bound: str, host: str, status: int) -> None:
    assert ask(make_kit(host=bound), headers={"host": host}).status_code == status


def test_any_host() -> None:
    assert ask(make_kit(allowed_hosts=["*"]), headers={"host": "evil.com"}).status_code == 200


def test_host_must_be_there_once() -> None:
    async def scenario() -> list[list[int]]:
        found = []
        async with make_kit().listening() as listener:
            for head in (b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
                         b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"):  # fmt: skip
                raw = await Raw.connect(listener)
                await raw.send(head)
                found.append(statuses(await raw.rest()))
                raw.abort()
        return found

    assert run(scenario()) == [[400], [400], [400]]


ORIGINS = [
    ({}, 200), ({"origin": "http://localhost:8000"}, 200), ({"origin": "https://localhost:8000"}, 200),
    ({"origin": "https://app.example"}, 200), ({"origin": "HTTPS://APP.example"}, 200),
    ({"sec-fetch-site": "same-origin"}, 200), ({"sec-fetch-site": "none"}, 200),
    ({"origin": "https://app.example", "sec-fetch-site": "cross-site"}, 200),
    ({"origin": "http://localhost:3000"}, 403), ({"origin": "http://evil.com"}, 403), ({"origin": "null"}, 403),
    ({"origin": "http://app.example"}, 403), ({"origin": "https://app.example.evil.com"}, 403), ({"origin": ""}, 403),
    ({"origin": "http://127.0.0.1:8000"}, 403), ({"sec-fetch-site": "cross-site"}, 403),
    ({"origin": "ftp://localhost:8000"}, 403), ({"origin": "http://localhost:8000.evil.com"}, 403),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), ORIGINS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_origin(headers: dict[str, str], status: int, method: str) -> None:
    kit = make_kit(cors_origins=["https://app.example"])
    path = "/stream" if method == "POST" else "/v1/models"
    response = ask(kit, method, path, headers=headers)
    assert response.status_code == status
    listed = headers.get("origin", "").lower() == "https://app.example"
    assert response.headers.get("access-control-allow-origin") == (headers["origin"] if listed else None)
    if status == 403:
        assert response.json()["error"]["code"] == "origin_not_allowed"
        assert kit.host.client.requests == []  # refused before it could do anything


def test_a_simple_request_of_a_foreign_page_does_nothing() -> None:
    kit = make_kit()
    headers = {"origin": "http://evil.com", "content-type": "text/plain"}
    assert ask(kit, path="/stream", json=None, content=b"{}", headers=headers).status_code == 403
    assert ask(kit, path="/stream", json=None, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert kit.host.client.requests == []


def test_errors_can_be_read_by_listed_pages() -> None:
    kit = make_kit(cors_origins=["https://app.example"], api_keys=["secret"])
    response = ask(kit, headers={"origin": "https://app.example"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert response.headers["vary"] == "origin"


def test_any_origin() -> None:
    response = ask(make_kit(cors_origins=["*"]), headers={"origin": "null", "sec-fetch-site": "cross-site"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("origin", "status"), [("https://app.example", 204), ("http://evil.com", 403)])
def test_preflight_needs_no_key_but_a_listed_origin(origin: str, status: int) -> None:
    kit = make_kit(cors_origins=["https://app.example"], api_keys=["secret"])
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-stainless-os",
        "access-control-request-private-network": "true",
    }
    response = ask(kit, "OPTIONS", headers=headers)
    assert response.status_code == status
    if status == 204:
        assert response.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
        assert "POST" in response.headers["access-control-allow-methods"]
        assert response.headers["access-control-allow-private-network"] == "true"
    else:
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-big": "a" * 20_000}, 431, "headers_too_large"),
        ({f"x-{number}": "a" for number in range(120)}, 431, "headers_too_large"),
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"content-encoding": "identity, BR"}, 415, "unsupported_media_type"),
        ({"transfer-encoding": "chunked", "content-length": "2"}, 400, "malformed_request"),
    ],
)
def test_header_limits(headers: dict[str, str], status: int, code: str) -> None:
    response = ask(make_kit(), json=None, content=b"{}", headers={"content-type": "application/json", **headers})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_target_limit() -> None:
    response = ask(make_kit(), "GET", "/" + "a" * 9000)
    assert (response.status_code, response.json()["error"]["code"]) == (414, "uri_too_long")


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/echo", 900, 200), ("/echo", 5000, 413), ("/tiny", 900, 200), ("/tiny", 1001, 413), ("/roomy", 90_000, 200)],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit_of_each_route(path: str, size: int, status: int, chunked: bool) -> None:
    async def pieces() -> object:
        body = b'{"a":"' + b"x" * (size - 8) + b'"}'
        for start in range(0, size, 500):
            yield body[start : start + 500]

    body = b'{"a":"' + b"x" * (size - 8) + b'"}'
    headers = {"content-type": "application/json"}
    response = ask(
        make_kit(max_body_bytes=4096), path=path, json=None, content=pieces() if chunked else body, headers=headers
    )
    assert response.status_code == status
    if status == 413:
        assert response.json()["error"]["code"] == "request_too_large"
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/echo", "/nowhere", "/health"])
def test_an_unwanted_upload_gets_its_answer_and_holds_nothing(path: str, chunked: bool) -> None:
    """More than Hypercorn queues: without care the end of the answer would wait for room in that queue for ever."""

    async def scenario() -> tuple[bytes, int]:
        kit = make_kit(max_body_bytes=100_000)
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000000"
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"

            async def upload() -> int:
                sent = 0
                piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536
                try:
                    while sent < 1500 * 65536:
                        await raw.send(piece)
                        sent += 65536
                except ConnectionError:
                    pass
                return sent

            await raw.send(head.encode())
            uploading = asyncio.create_task(upload())
            answer = await raw.until(b'"}}' if path != "/echo" else b"}}")
            sent = await uploading
            await raw.rest()
            await asyncio.wait_for(kit.plugins.logged.wait(), 20)
            await listener.close(5)
            assert listener.open_connections == 0
        return answer, sent

    answer, _ = run(scenario())
    assert statuses(answer) == [{"/echo": 413, "/nowhere": 404, "/health": 405}[path]]
    assert b"connection: close" in answer


def test_a_small_unwanted_body_keeps_the_connection() -> None:
    async def scenario() -> list[int]:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.post("/nowhere", b"x" * 1000)
            first = await raw.until(b'"}}')
            await raw.post("/echo")
            second = await raw.until(b"\r\n\r\n{}")
            raw.abort()
            return statuses(first) + statuses(second)

    assert run(scenario()) == [404, 200]


def test_a_body_that_drips_is_cut_at_the_deadline() -> None:
    async def scenario() -> tuple[bytes, Kit]:
        kit = make_kit(body_timeout_seconds=0.2)
        async with kit.listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")  # fmt: skip
            answer = await raw.rest()
            raw.abort()
        return answer, kit

    answer, kit = run(scenario())
    assert statuses(answer) == [408]
    assert b'"code":"body_timeout"' in answer
    assert kit.host.client.requests == []


def test_the_client_is_told_to_go_on() -> None:
    async def scenario() -> bytes:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")  # fmt: skip
            assert b"100" in await raw.until(b"\r\n\r\n")
            await raw.send(b"{}")
            answer = await raw.until(b"{}")
            raw.abort()
            return answer

    assert statuses(run(scenario())) == [200]


def test_a_length_with_leading_zeros_is_a_length() -> None:
    """h11 takes twenty digits: however many there are, none may slip past the limit."""

    async def scenario() -> bytes:
        async with make_kit().listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(b"POST /tiny HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: " + b"2000".zfill(20) + b"\r\n\r\n" + b" " * 1998 + b"{}")  # fmt: skip
            return await raw.until(b"}}")

    assert statuses(run(scenario())) == [413]
