"""Writes the OpenAPI 3.1 description of all endpoints that say something of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from starlette.routing import Route

from localllm.contract.endpoint_doc import EndpointDoc, ParameterDoc, ResponseDoc
from localllm.hookspecs import ErrorForm
from localllm.server.errors import ERROR_KINDS
from localllm.server.openapi_schemas import SchemaShelf
from localllm.server.routes import RouteEntry

OPENAPI_VERSION: Final = "3.1.0"
EVENT_STREAM: Final = "text/event-stream"

_DESCRIPTION: Final = """\
Models on your own machine, behind the endpoints that clients of OpenAI's API know.

- What stands under `/v1` is mostly answered without that prefix too, and other spellings of a path (`/openai/v1/...`) \
may be served; they are left out here.
- Fields that an endpoint doesn't know are ignored; null counts as absent.
- Every answer has the header `x-request-id`: the one that was sent, or a new one. The server's log has it too.
- A stream that fails once it has begun ends with one event that holds the error."""

_ANYWHERE: Final = (
    "malformed_request",
    "host_not_allowed",
    "origin_not_allowed",
    "slow_reader",
    "uri_too_long",
    "unsupported_media_type",
    "headers_too_large",
    "internal_error",
    "service_unavailable",
    "deadline_exceeded",
)
"""Codes that any endpoint may answer, because the server itself does, or a model's own failure."""

_WITH_BODY: Final = ("invalid_request", "body_timeout", "request_too_large")
_GUARDED: Final = ("invalid_api_key",)

_ERROR_SCHEMAS: Final[Mapping[ErrorForm, dict[str, Any]]] = {
    "openai": {
        "title": "Error",
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "description": "One sentence: what is wrong, and what to do."},
                    "type": {"type": "string", "enum": sorted({kind.type for kind in ERROR_KINDS.values()})},
                    "param": {"type": ["string", "null"], "description": "The field at fault."},
                    "code": {"type": "string", "description": "The stable name of what happened."},
                },
                "additionalProperties": True,
                "description": "Some codes bring further fields.",
            }
        },
    },
    "detail": {
        "title": "Detail",
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "string", "description": "One sentence: what is wrong, and what to do."}},
    },
}

_JSON: Final = re.compile(r"application/(?:[\w.-]+\+)?json")
_CONVERTED: Final = re.compile(r"\{(\w+):\w+\}")
_NOT_IN_KEYS: Final = re.compile(r"[^A-Za-z0-9]+")
_NUMBERS: Final = {"int": {"type": "integer", "minimum": 0}, "float": {"type": "number", "minimum": 0}}


class _Operation(NamedTuple):
    """One method of one described route, in the order of the document."""

    path: str
    method: str
    entry: RouteEntry
    doc: EndpointDoc


def describe_api(entries: Iterable[RouteEntry], *, version: str, has_keys: bool) -> dict[str, Any]:
    """Return the document about the routes that have a doc. The same routes, in any order, give the same document.

    ``has_keys`` says whether the server asks for API keys. Schemas are made here: it takes some tenths of a second.
    """
    shelf = SchemaShelf()
    errors = _ErrorAnswers(shelf)
    ids = _Unique()
    paths: dict[str, dict[str, Any]] = {}
    operations = sorted(_operations(entries), key=lambda one: one[:2])
    for one in operations:
        try:
            described = _describe(one, shelf, errors, has_keys=has_keys)
        except Exception as error:
            error.add_note(f"while describing {one.method} {one.path}, the route {one.entry.name!r}")
            raise
        described["operationId"] = ids.key(f"{one.method}_{one.path}")
        paths.setdefault(one.path, {})[one.method.lower()] = described
    components: dict[str, Any] = {
        "schemas": dict(sorted(shelf.schemas.items())),
        "responses": dict(sorted(errors.answers.items())),
    }
    document: dict[str, Any] = {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "localllm", "description": _DESCRIPTION, "version": version},
        "tags": [{"name": tag} for tag in _tags(operations)],
        "paths": paths,
        "components": components,
    }
    if has_keys:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["security"] = [{"bearer": []}, {"x-api-key": []}]
    return document


def _tags(operations: Sequence[_Operation]) -> list[str]:
    """Return the tags by their names, those with nothing under ``/v1`` last: pages about the document show them so."""
    main = {one.doc.tag for one in operations if one.path.startswith("/v1/")}
    return sorted({one.doc.tag for one in operations if one.doc.tag}, key=lambda tag: (tag not in main, tag.lower()))


def _operations(entries: Iterable[RouteEntry]) -> Iterator[_Operation]:
    for entry in entries:
        if entry.doc is None or not isinstance(entry.route, Route):
            continue
        path = _CONVERTED.sub(r"{\1}", entry.route.path)
        for method in (entry.route.methods or {"GET"}) - {"HEAD"}:
            yield _Operation(path, method, entry, entry.doc)


def _describe(one: _Operation, shelf: SchemaShelf, errors: _ErrorAnswers, *, has_keys: bool) -> dict[str, Any]:
    doc, entry = one.doc, one.entry
    described: dict[str, Any] = {"summary": doc.summary}
    if doc.description:
        described["description"] = doc.description
    if doc.tag:
        described["tags"] = [doc.tag]
    parameters = [_parameter(parameter) for parameter in _parameters(one)]
    if parameters:
        described["parameters"] = parameters
    if doc.request is not None:
        described["requestBody"] = _request_body(doc, shelf)
    answers = {str(status): _answer(answer, shelf, entry.errors) for status, answer in doc.responses.items()}
    statuses = {ERROR_KINDS[code].status for code in _codes(doc, is_guarded=has_keys and not entry.public)}
    for status in sorted({*statuses, *doc.errors}):
        answers.setdefault(str(status), {"$ref": errors.answer(status, entry.errors)})
    described["responses"] = dict(sorted(answers.items()))
    if has_keys and entry.public:
        described["security"] = []
    return described


def _codes(doc: EndpointDoc, *, is_guarded: bool) -> list[str]:
    return [
        *_ANYWHERE,
        *(_WITH_BODY if doc.request is not None else ()),
        *(_GUARDED if is_guarded else ()),
    ]


def _parameters(one: _Operation) -> list[ParameterDoc]:
    """Return what the doc tells of, and what of the path it leaves out."""
    told = {parameter.name for parameter in one.doc.parameters if parameter.where == "path"}
    converters = one.entry.route.param_convertors if isinstance(one.entry.route, Route) else {}
    rest = [
        ParameterDoc(name, "path", "", _NUMBERS.get(type(converter).__name__.removesuffix("Convertor").lower(), _TEXT))
        for name, converter in converters.items()
        if name not in told
    ]
    return [*one.doc.parameters, *rest]


_TEXT: Final[dict[str, Any]] = {"type": "string"}


def _parameter(parameter: ParameterDoc) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "schema": dict(parameter.schema),
    }
    if parameter.description:
        described["description"] = parameter.description
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _request_body(doc: EndpointDoc, shelf: SchemaShelf) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": shelf.place(doc.request or {})}
    keys = _Unique()
    if doc.examples:
        media["examples"] = {
            keys.key(title): {"summary": title, "value": value} for title, value in doc.examples.items()
        }
    return {"required": True, "content": {doc.request_media: media}}


def _answer(answer: ResponseDoc, shelf: SchemaShelf, form: ErrorForm) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.media:
        described["content"] = {media: _content(media, answer, shelf, form) for media in answer.media}
    if answer.headers:
        described["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in answer.headers.items()
        }
    return described


def _content(media: str, answer: ResponseDoc, shelf: SchemaShelf, form: ErrorForm) -> dict[str, Any]:
    if media == EVENT_STREAM:
        held = [{}] if answer.events is None else [shelf.place(answer.events), shelf.place(_ERROR_SCHEMAS[form])]
        return {"schema": _event(held)}
    if not _JSON.fullmatch(media):
        return {"schema": {"type": "string"}}
    content: dict[str, Any] = {} if answer.schema is None else {"schema": shelf.place(answer.schema)}
    return content if answer.example is None else {**content, "example": answer.example}


def _event(held: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of one event: before 3.2 OpenAPI says nothing of streams, and tools read ``schema`` so."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": held}}
    return {
        "description": "One event.",
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}, "event": {"type": "string"}},
        "required": ["data"],
    }


def event_content(media: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of what an event holds, of a stream that the description tells of."""
    found: dict[str, Any] = media["schema"]["properties"]["data"]["anyOf"][1]["contentSchema"]
    return found


class _ErrorAnswers:
    """``components/responses``: one for each status and form of errors that some endpoint answers."""

    def __init__(self, shelf: SchemaShelf) -> None:
        self.answers: dict[str, Any] = {}
        self._shelf = shelf

    def answer(self, status: int, form: ErrorForm) -> str:
        """Return the reference to what such an error looks like."""
        schema = _ERROR_SCHEMAS[form]
        name = f"{schema['title']}{status}"
        if name not in self.answers:
            codes = sorted(code for code, kind in ERROR_KINDS.items() if kind.status == status)
            described = ", ".join(f"`{code}`" for code in codes) or "a failure that this endpoint has for itself"
            self.answers[name] = {
                "description": described,
                "content": {"application/json": {"schema": self._shelf.place(schema)}},
            }
        return f"#/components/responses/{name}"


class _Unique:
    """Makes keys of texts, no two the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def key(self, text: str) -> str:
        """Return letters, digits and underscores that tell ``text`` from the others."""
        plain = _NOT_IN_KEYS.sub("_", text).strip("_").lower() or "one"
        names: Sequence[str] | Iterator[str] = (plain if n == 1 else f"{plain}_{n}" for n in count(1))
        key = next(name for name in names if name not in self._taken)
        self._taken.add(key)
        return key
