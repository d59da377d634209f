"""The page at /docs: complete by itself, for anybody on this machine, and for no page of another origin."""

from __future__ import annotations

import re

import pytest

from tests.server.kit import make_kit, run

KEY = "sk-test-0123456789abcdef"
TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}


def test_the_page_has_no_script_in_it_and_nothing_from_elsewhere() -> None:
    response = run(make_kit().request("GET", "/docs"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in response.text
    assert not re.search(r"<script(?! src=)|\son\w+=|<style", response.text)
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


def test_all_that_the_page_names_is_there() -> None:
    async def scenario() -> None:
        kit = make_kit()
        page = (await kit.request("GET", "/docs")).text
        named = re.findall(r'(?:src|href)="([^":]+)"', page)
        assert sorted(named) == ["docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"]
        for name in named:
            response = await kit.request("GET", f"/{name}")
            assert response.status_code == 200
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["content-type"] == TYPES.get(name.removeprefix("docs/"), "application/json")
            known = {"if-none-match": response.headers["etag"]}
            assert (await kit.request("GET", f"/{name}", headers=known)).status_code == 304

    run(scenario())


def test_the_files_are_swagger_ui() -> None:
    async def scenario() -> None:
        kit = make_kit()
        assert b"SwaggerUIBundle" in (await kit.request("GET", "/docs/swagger-ui-bundle.js")).content
        style = (await kit.request("GET", "/docs/swagger-ui.css")).text
        assert ".swagger-ui" in style
        assert "html.dark-mode" in style  # the class that start.js sets
        assert '"dark-mode"' in (await kit.request("GET", "/docs/start.js")).text
        assert not re.search(r"@import|url\((?![\"']?data:)", style)

    run(scenario())


@pytest.mark.parametrize(
    "path", ["/docs/", "/docs/redoc.js", "/docs/__init__.py", "/docs/..%2f__init__.py", "/docs/start.js/x"]
)
def test_no_other_file_can_be_had(path: str) -> None:
    assert run(make_kit().request("GET", path)).status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/openapi.json"])
def test_it_needs_no_key_but_the_origin_must_be_ours(path: str) -> None:
    async def scenario() -> None:
        kit = make_kit(api_keys=[KEY])
        assert (await kit.request("GET", path)).status_code == 200
        assert (await kit.request("GET", path, headers={"sec-fetch-site": "same-origin"})).status_code == 200
        assert (await kit.request("GET", path, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await kit.request("GET", path, headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await kit.request("POST", path)).status_code == 401

    run(scenario())
