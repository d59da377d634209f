"""``GET /``: for a browser a page with the state, the models and a chat, for a program the same state as JSON."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.contract.endpoint_doc import EndpointDoc, ResponseDoc
from localllm.contract.model import ModelKind
from localllm.models.pulls import Pull, Pulls
from localllm.server.core_routes import json_response
from localllm.server.errors import InvalidApiKeyError
from localllm.server.instance_report import format_bytes, instance_report
from localllm.server.model_host import ModelHost, states_by_id
from localllm.server.record import request_record
from localllm.server.routes import RouteEntry

_UNLOADED: Final = "unloaded"


def front_routes(host: ModelHost, pulls: Pulls | None, *, has_docs: bool) -> list[RouteEntry]:
    """Return the route. It is public, since a browser has no key before the page asks for it; what it shows is not.

    It is a probe, since an open page asks every few seconds.
    """

    async def front(request: Request) -> Response:
        is_known = request_record(request.scope).authenticated
        running = pulls.running() if pulls is not None else []
        wants_page = prefers_html(request.headers.getlist("accept"))
        if wants_page:
            response = _page(_page_state(host, running) if is_known else None, has_docs=has_docs)
        elif not is_known:
            raise InvalidApiKeyError("This server asks for an API key: send it as 'Authorization: Bearer KEY'.")
        else:
            response = json_response(instance_report(host, running, datetime.now(UTC)))
        response.headers["cache-control"] = "no-store"
        response.headers["vary"] = "accept, authorization, x-api-key"
        return response

    return [RouteEntry(Route("/", front), "front", public=True, probe=True, doc=_DOC)]


def prefers_html(accept: Sequence[str]) -> bool:
    """Say whether an ``Accept`` header names HTML, and not JSON before it; what takes anything gets JSON."""
    weights: dict[str, float] = {}
    for part in ",".join(accept).split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[media] = next((_weight(one) for one in parameters if one.startswith("q=")), 1.0)
    html = max(weights.get("text/html", 0.0), weights.get("application/xhtml+xml", 0.0))
    return html > weights.get("application/json", 0.0)


def _weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0


class _PageState(NamedTuple):
    """What the page shows, in words: the lines of its tables, and the models that a chat may be with."""

    models: list[list[str]]
    downloads: list[list[str]]
    chats: list[str]


def _page_state(host: ModelHost, pulls: Sequence[Pull]) -> _PageState:
    states = states_by_id(host)
    specs = host.list_specs()
    models = []
    for spec in specs:
        state = states.get(spec.id)
        word = _UNLOADED if state is None else str(state.state)
        busy = "" if state is None else _requests(state.in_flight, state.waiting)
        memory = "" if state is None or state.memory_bytes is None else format_bytes(state.memory_bytes)
        models.append([spec.id, spec.kind.value, word, memory, busy])
    chats = [spec.id for spec in specs if spec.kind is ModelKind.CHAT]
    return _PageState(models, [_download(pull) for pull in pulls], chats)


def _requests(running: int, waiting: int) -> str:
    counts = {"running": running, "waiting": waiting}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _download(pull: Pull) -> list[str]:
    progress = pull.progress
    total = "" if progress.total_bytes is None else f" of {format_bytes(progress.total_bytes)}"
    percent = "" if progress.percent is None else f"{progress.percent:g} %"
    arrived = f"{format_bytes(progress.completed_bytes)}{total}"
    return [pull.model_id or pull.job.source, progress.status.value, arrived, percent]


def _page(state: _PageState | None, *, has_docs: bool) -> Response:
    """Return the page with the state written into it, so that it shows without scripts; None: the caller has no key."""
    style, script = _asset("page.css"), _asset("page.js")
    shown = state or _PageState([], [], [])
    body = _TEMPLATE.format(
        style=style,
        docs='<a href="docs">Endpoints</a> ' if has_docs else "",
        script=script,
        note="This server asks for an API key." if state is None else "",
        locked="" if state is None else " hidden",
        open=" hidden" if state is None else "",
        models=_rows(shown.models),
        downloads=_rows(shown.downloads),
        downloading="" if shown.downloads else " hidden",
        empty=" hidden" if shown.chats else "",
        options="".join(f"<option>{escape(name)}</option>" for name in shown.chats),
    )
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(body, media_type="text/html; charset=utf-8", headers=headers)


def _rows(lines: Sequence[Sequence[str]]) -> str:
    return "".join(
        "<tr>" + "".join(f"<td{_name(index)}>{escape(cell)}</td>" for index, cell in enumerate(cells)) + "</tr>"
        for cells in lines
    )


def _name(index: int) -> str:
    return "" if index else ' class="name"'


@cache
def _asset(name: str) -> str:
    return files("localllm.server.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>localllm</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>localllm</h1>
<nav>{docs}<a href="v1/models">Models as JSON</a> <a href="health">Health</a></nav>
</header>
<p id="note" role="status">{note}</p>
<form id="key-form"{locked}>
<input id="key" type="password" placeholder="API key" aria-label="API key" autocomplete="off" required>
<button type="submit">Use this key</button>
</form>
<main id="main"{open}>
<section>
<h2>Models</h2>
<div class="scroll"><table>
<thead><tr><th>Name</th><th>Kind</th><th>State</th><th>Memory</th><th>Requests</th></tr></thead>
<tbody id="models">{models}</tbody>
</table></div>
</section>
<section id="downloads-section"{downloading}>
<h2>Downloads</h2>
<div class="scroll"><table>
<thead><tr><th>Model</th><th>State</th><th>Arrived</th><th>Percent</th></tr></thead>
<tbody id="downloads">{downloads}</tbody>
</table></div>
</section>
<section>
<h2>Chat</h2>
<noscript><p>The chat needs JavaScript; what is above does not.</p></noscript>
<p id="empty"{empty}>There is no model to chat with yet: put a GGUF file into the models' folder, or run
<code>localllm models pull qwen3-0.6b</code>.</p>
<div id="log" role="log" aria-label="Conversation" tabindex="0"></div>
<form id="chat" hidden>
<textarea id="text" placeholder="Say something" aria-label="Message"></textarea>
<select id="model" aria-label="Model">{options}</select>
<button id="send" type="submit">Send</button>
<button id="stop" type="button" disabled>Stop</button>
<button id="clear" type="button">New conversation</button>
</form>
</section>
</main>
<script>{script}</script>
</body>
</html>
"""

_NUMBER: Final = {"type": "integer"}
_DOC: Final = EndpointDoc(
    "State of the server",
    "For programs JSON: which instances there are and which models, and what is being downloaded. For browsers "
    "(`Accept: text/html`) a page that shows it, with a chat.",
    "server",
    responses={
        200: ResponseDoc(
            "The state.",
            {
                "type": "object",
                "properties": {
                    "pool": {
                        "type": "object",
                        "properties": {
                            "processing": _NUMBER,
                            "pending": _NUMBER,
                            "instances": {"type": "object", "additionalProperties": {"type": "object"}},
                        },
                    },
                    "store": {"type": "object", "additionalProperties": {"type": "object"}},
                },
            },
            ("application/json", "text/html"),
        )
    },
    errors=(401,),
)
