"""API keys: every way to send one, every way to slip past, and whose cache is whose."""

from __future__ import annotations

import httpx
import pytest

from localllm.config.schema import ModelsSection
from localllm.server.middleware.api_key import fingerprint
from tests.server.kit import Kit, Raw, make_kit, our_log, run, statuses

KEYS = ["first-key", "second-key"]


def ask(kit: Kit, method: str, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return run(kit.request(method, path, headers=named))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer first-key"}, 200),
        ({"authorization": "bearer second-key"}, 200),
        ({"authorization": "Bearer   first-key  "}, 200),
        ({"x_api_key": "second-key"}, 200),
        ({"authorization": "Bearer first-key", "x_api_key": "first-key"}, 200),
        ({"authorization": "Basic dXNlcjpwYXNz", "x_api_key": "first-key"}, 200),
        ({"authorization": "Bearer", "x_api_key": "first-key"}, 200),
        ({"authorization": "Bearer first-key", "x_api_key": "second-key"}, 400),
        ({"authorization": "Bearer first-key", "x_api_key": "wrong"}, 400),
        ({}, 401),
        ({"authorization": "first-key"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer first-ke"}, 401),
        ({"authorization": "Bearer first-keyy"}, 401),
        ({"authorization": "Bearer FIRST-KEY"}, 401),
        ({"authorization": "Bearer first-key,second-key"}, 401),
        ({"authorization": "Basic Zmlyc3Qta2V5"}, 401),
        ({"x_api_key": ""}, 401),
        ({"x_api_key": "\xff\xfe"}, 401),
        ({"api_key": "first-key"}, 401),
        ({"cookie": "api_key=first-key"}, 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo", "/version"])
def test_credentials(headers: dict[str, str], status: int, path: str) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    response = ask(make_kit(api_keys=KEYS), "GET", path, **sent)  # type: ignore[arg-type]
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    for key in KEYS:
        assert status == 200 or key not in response.text


def test_two_headers_of_a_kind_are_two_credentials() -> None:
    kit = make_kit(api_keys=KEYS)
    headers = [("authorization", "Bearer wrong"), ("authorization", "Bearer first-key")]
    assert run(kit.request("GET", "/v1/models", headers=headers)).status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_every_route_but_the_public_ones_is_guarded(method: str) -> None:
    kit = make_kit(api_keys=KEYS)
    public = {"/health", "/ready", "/open", "/openapi.json", "/docs", "/docs/{name}"}

    async def scenario() -> None:
        for route in kit.app.routes:
            path = route.path.replace("{id:path}", "x")  # type: ignore[attr-defined]
            status = (await kit.request(method, path)).status_code
            if path not in public:
                assert status == 401, path
            elif method in route.methods:  # type: ignore[attr-defined]
                assert status != 401, path

    run(scenario())


TARGETS = """
    //v1/models /v1//models /V1/MODELS /v1/%6dodels /%761/models /v1/models/ /v1/models/..%2fhealth /v1/models?x=/health
    /health/../v1/models /health/%2e%2e/v1/models /health%2f..%2fv1/models /./v1/models /v1/models;/health
    /v1/models%00/health /v1/models%23/health /nowhere /health/ /healthx /HEALTH
"""


@pytest.mark.parametrize("target", TARGETS.split())
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_spelling_of_a_path_slips_past(target: str, method: str) -> None:
    async def scenario() -> bytes:
        async with make_kit(api_keys=KEYS).listening() as listener:
            raw = await Raw.connect(listener)
            await raw.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = await raw.rest()
            raw.abort()
            return answer

    answer = run(scenario())
    assert statuses(answer) == [401]
    assert b'"demo"' not in answer


def test_health_lists_models_to_known_callers_only() -> None:
    kit = make_kit(api_keys=KEYS)
    nobody = {"status": "ok", "default_model": None, "models": []}
    assert ask(kit, "GET", "/health").json() == nobody
    assert ask(kit, "GET", "/health", x_api_key="wrong").json() == nobody
    known = ask(kit, "GET", "/health", x_api_key="first-key").json()
    assert known["default_model"] == "demo"
    assert "org/name:Q4" in known["models"]


def owners(kit: Kit, *keys: str) -> list[str]:
    async def scenario() -> None:
        for key in keys:
            await kit.request("POST", "/stream", json={}, headers={"x-api-key": key} if key else {})

    run(scenario())
    return [request.owner for request in kit.host.client.requests]


def test_each_key_owns_its_prefixes() -> None:
    first, second, again = owners(make_kit(api_keys=KEYS), "first-key", "second-key", "first-key")
    assert first == again == fingerprint("first-key")
    assert second == fingerprint("second-key") != first
    assert "first-key" not in first


def test_everybody_owns_them_when_shared_or_without_keys() -> None:
    assert owners(make_kit(api_keys=KEYS, models=ModelsSection(share_prefix_cache=True)), *KEYS) == ["", ""]
    assert owners(make_kit(), "", "first-key") == ["", ""]


def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    kit = make_kit(api_keys=KEYS)
    for key in ("first-key", "wrong-key"):
        ask(kit, "GET", f"/v1/models?key={key}", authorization=f"Bearer {key}")
    assert "-key" not in our_log(caplog)
