"""The endpoints about the endpoints: their description as OpenAPI, and a page to read and try it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.contract.endpoint_doc import EndpointDoc, ResponseDoc
from localllm.server.errors import RouteNotFoundError
from localllm.server.openapi import describe_api
from localllm.server.record import request_record
from localllm.server.routes import RouteEntry

UNTOLD_VERSION: Final = "not told without an API key"
ASSETS_PACKAGE: Final = "offapi"
"""A wheel of nothing but files, Swagger UI's among them; it is never imported."""

_TAG: Final = "server"

# Scripts come from here alone, none stands in the page itself. Swagger UI writes style attributes and data: images.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Addresses are relative, so that a proxy may put a prefix before them.
_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>localllm: endpoints</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui">
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> does not.</noscript>
</div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START: Final = b"""const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""


class _Content(NamedTuple):
    """What is sent, and its name for clients that may have it already."""

    body: bytes
    tag: str


class _File(NamedTuple):
    """What is behind ``/docs/NAME``: a file of the package, or what stands here."""

    media_type: str
    packaged: str = ""
    content: bytes = b""


_FILES: Final[Mapping[str, _File]] = {
    "swagger-ui.css": _File("text/css; charset=utf-8", "swagger_style.css"),
    "swagger-ui-bundle.js": _File("text/javascript; charset=utf-8", "swagger_bundle.js"),
    "start.js": _File("text/javascript; charset=utf-8", content=_START),
}


def docs_routes(entries: Callable[[], Sequence[RouteEntry]], *, has_keys: bool) -> list[RouteEntry]:
    """Return the routes. They are public: which endpoints a server has is no secret, but its version is.

    ``entries`` returns all routes of the app, once it is built. They are described when somebody first asks.
    """
    description = _Description(entries, has_keys=has_keys)
    html = _tagged(_PAGE)

    async def openapi(request: Request) -> Response:
        document = await description.json(tell_version=request_record(request.scope).authenticated)
        headers = {"vary": "authorization, x-api-key"} if has_keys else {}
        return _unless_known(request, document, "application/json", headers)

    async def page(request: Request) -> Response:
        return _unless_known(request, html, "text/html; charset=utf-8", {"content-security-policy": _POLICY})

    async def asset(request: Request) -> Response:
        file = _FILES.get(request.path_params["name"])
        if file is None:
            raise RouteNotFoundError("The page /docs has no such file.")
        content = await asyncio.to_thread(_load, file)
        return _unless_known(request, content, file.media_type, {})

    return [
        RouteEntry(Route("/openapi.json", openapi), "openapi", public=True, doc=_OPENAPI),
        RouteEntry(Route("/docs", page), "docs", public=True),
        RouteEntry(Route("/docs/{name}", asset), "docs:asset", public=True),
    ]


class _Description:
    """The document about one app, made once, in a thread: an app's routes never change."""

    def __init__(self, entries: Callable[[], Sequence[RouteEntry]], *, has_keys: bool) -> None:
        self._entries = entries
        self._has_keys = has_keys
        self._made: dict[bool, _Content] = {}
        self._turn = asyncio.Lock()

    async def json(self, *, tell_version: bool) -> _Content:
        """Return the document, with the server's version or without."""
        async with self._turn:
            if not self._made:
                self._made = await asyncio.to_thread(self._make)
        return self._made[tell_version]

    def _make(self) -> dict[bool, _Content]:
        document = describe_api(self._entries(), version=UNTOLD_VERSION, has_keys=self._has_keys)
        told = {**document, "info": {**document["info"], "version": version("localllm")}}
        return {False: _tagged(orjson.dumps(document)), True: _tagged(orjson.dumps(told))}


def _tagged(body: bytes) -> _Content:
    return _Content(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _load(file: _File) -> _Content:
    return _tagged(file.content or _read_packaged(file.packaged))


def _read_packaged(name: str) -> bytes:
    found = find_spec(ASSETS_PACKAGE)
    if found is None or found.origin is None:
        message = f"the package {ASSETS_PACKAGE}, which brings the files of /docs, is not installed"
        raise RuntimeError(message)
    return Path(found.origin).with_name(name).read_bytes()


def _unless_known(request: Request, content: _Content, media_type: str, headers: Mapping[str, str]) -> Response:
    """Return the body, or 304 to a client that has it already. Clients ask each time: an update must show at once."""
    headers = {**headers, "etag": content.tag, "cache-control": "no-cache", "x-content-type-options": "nosniff"}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if content.tag in known:
        return Response(status_code=304, headers=headers)
    return Response(content.body, headers=headers, media_type=media_type)


_OPENAPI = EndpointDoc(
    summary="This description",
    description="OpenAPI 3.1 of the endpoints that this server has, those of its plugins included. Needs no API key. "
    "`/docs` is a page to read it, and to try the endpoints.",
    tag=_TAG,
    responses={
        200: ResponseDoc("The document.", {"type": "object"}),
        304: ResponseDoc("What the client has already (`If-None-Match`).", media=()),
    },
)
