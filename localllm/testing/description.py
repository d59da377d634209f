"""Holds ``/openapi.json`` against OpenAPI's rules, and examples and real answers against what it says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from starlette.routing import Route

from localllm.contract.endpoint_doc import EndpointDoc
from localllm.server.openapi import EVENT_STREAM, describe_api, event_content
from localllm.server.routes import RouteEntry

if TYPE_CHECKING:
    import httpx

_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch", "options"})
_CHECKED_MEDIA: Final = "application/json"


class Example(NamedTuple):
    """A request that the description says works. ``path`` has its parameters filled in, ``template`` has not.

    ``body`` is JSON, or a text of another ``media`` type.
    """

    title: str
    method: str
    path: str
    template: str
    body: Any = None
    media: str = _CHECKED_MEDIA

    def content(self) -> bytes | None:
        """Return the body as it is sent."""
        if self.body is None:
            return None
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f": {self.title}" if self.title else "")


class Description:
    """One OpenAPI document. Faults are raised as ``AssertionError``, all of them at once.

    Needs jsonschema and openapi-spec-validator.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    @classmethod
    def of(cls, doc: EndpointDoc, *, path: str = "/v1/mine", method: str = "POST") -> Description:
        """Return the description of a server with nothing but one endpoint."""
        route = Route(path, _unused, methods=[method])
        return cls(describe_api([RouteEntry(route, "mine", doc=doc)], version="0", has_keys=False))

    def check(self) -> None:
        """Check that it is valid OpenAPI, and that its examples have the forms that it gives for them."""
        from openapi_spec_validator import OpenAPIV31SpecValidator

        faults = [
            f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
            for error in OpenAPIV31SpecValidator(dict(self.document)).iter_errors()
        ]
        for where, schema in self._schemas():
            faults += [f"{where}: not a schema: {error}" for error in _schema_faults(schema)]
        _raise(faults)  # by a schema that is none nothing can be checked
        for where, media in self._media():
            examples = [one["value"] for one in media.get("examples", {}).values()]
            examples += [media["example"]] if "example" in media else []
            for example in examples:
                faults += [f"{where}: the example {fault}" for fault in self._faults(media.get("schema", {}), example)]
        _raise(faults)

    def examples(self) -> Iterator[Example]:
        """Yield all examples of requests, and each request that needs nothing to be said."""
        for template, method, operation in self.operations():
            path, is_complete = template, True
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and "example" in parameter:
                    path = path.replace(f"{{{parameter['name']}}}", quote(str(parameter["example"])))
                elif parameter["required"]:
                    is_complete = False
            if not is_complete:
                continue
            content = operation.get("requestBody", {}).get("content", {})
            for media_type, media in content.items():
                for one in media.get("examples", {}).values():
                    yield Example(one["summary"], method.upper(), path, template, one["value"], media_type)
            if not content and method == "get":
                yield Example("", "GET", path, template)

    def operations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield path, method (in lower case) and what is said of them."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                if method in _METHODS:
                    yield path, method, operation

    def check_answer(self, method: str, path: str, response: httpx.Response, *, strict: bool = True) -> None:
        """Check that an answer is one of those that are described for ``path``, as the description writes it.

        ``strict``: and that it has no fields of which nothing is said.
        """
        where = f"{method.upper()} {path}: {response.status_code}"
        answers = self.document["paths"][path][method.lower()]["responses"]
        if str(response.status_code) not in answers:
            _raise([f"{where} is not among {', '.join(answers)}: {response.text[:200]}"])
        content = self._resolve(answers[str(response.status_code)]).get("content", {})
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if not content and not response.content:
            return
        if media_type not in content:
            _raise([f"{where}: its content type {media_type!r} is not among {', '.join(content) or 'none'}"])
        media = content[media_type]
        if media_type == _CHECKED_MEDIA:
            faults = self._faults(media.get("schema", {}), response.json(), strict=strict)
        elif media_type == EVENT_STREAM:
            schema = event_content(media)
            faults = [fault for event in _events(response.text) for fault in self._faults(schema, event, strict=strict)]
        else:
            faults = []
        _raise([f"{where}: {fault}" for fault in faults])

    def _schemas(self) -> Iterator[tuple[str, Any]]:
        yield from self.document["components"]["schemas"].items()
        for where, media in self._media():
            yield where, media.get("schema", {})
        for path, method, operation in self.operations():
            for parameter in operation.get("parameters", ()):
                yield f"{method.upper()} {path}: {parameter['name']}", parameter["schema"]

    def _media(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for path, method, operation in self.operations():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{method.upper()} {path}", media
            for status, answer in operation["responses"].items():
                for media in self._resolve(answer).get("content", {}).values():
                    yield f"{method.upper()} {path}: {status}", media

    def _resolve(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in answer:
            return answer
        found: Mapping[str, Any] = self.document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        return found

    def _faults(self, schema: Mapping[str, Any], value: Any, *, strict: bool = False) -> list[str]:  # noqa: ANN401
        from jsonschema import Draft202012Validator

        whole = {**schema, "components": self.document["components"]}
        if strict:
            schemas = {name: _closed(one) for name, one in self.document["components"]["schemas"].items()}
            whole = {**_closed(schema), "components": {"schemas": schemas}}
        return [_worded(error) for error in Draft202012Validator(whole).iter_errors(value)]


def _closed(schema: Any) -> Any:  # noqa: ANN401
    """Return the schema with every object that names its fields closed to others."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy = {key: _closed(value) for key, value in schema.items()}
    names_fields = isinstance(copy.get("properties"), Mapping) and "type" in copy
    return {"additionalProperties": False, **copy} if names_fields else copy


def _events(text: str) -> Iterator[Any]:
    """Yield what the events of a stream hold."""
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if data != line and data != "[DONE]":
            yield json.loads(data)


def _schema_faults(schema: Any) -> list[str]:  # noqa: ANN401
    from jsonschema import Draft202012Validator

    return [_worded(error) for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema)]


def _worded(error: Any) -> str:  # noqa: ANN401 - a jsonschema.ValidationError
    worst = min(error.context, key=lambda inner: -len(inner.absolute_path), default=error)
    place = "/".join(map(str, worst.absolute_path)) or "as a whole"
    return f"{place}: {worst.message[:300]}"


def _raise(faults: list[str]) -> None:
    if faults:
        raise AssertionError("\n".join(faults))


def _unused() -> None:
    """Stand for an endpoint that is only described."""
