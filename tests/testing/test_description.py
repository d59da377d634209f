"""The check of descriptions that plugin authors get: it finds what is wrong, and leaves alone what is right."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from localllm import EndpointDoc, ParameterDoc, ResponseDoc
from localllm.testing.description import Description, Example

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
RIGHT: dict[str, Any] = {
    "request": TEXT,
    "examples": {"A text": {"text": "a"}},
    "responses": {
        200: ResponseDoc(
            "It.", schema=TEXT, media=("application/json", "text/event-stream"), example={"text": "b"}, events=TEXT
        )
    },
}


def description(**changes: Any) -> Description:
    return Description.of(EndpointDoc("Mine", **{**RIGHT, **changes}))


def stream(*events: str) -> httpx.Response:
    text = "".join(f"data: {event}\n\n" for event in events)
    return httpx.Response(200, text=": ping\n\n" + text, headers={"content-type": "text/event-stream; charset=utf-8"})


def test_what_is_right_passes() -> None:
    described = description()
    described.check()
    described.check_answer("POST", "/v1/mine", httpx.Response(200, json={"text": "a"}))
    described.check_answer("post", "/v1/mine", stream('{"text": "a"}', "[DONE]"))
    described.check_answer("post", "/v1/mine", stream('{"error": {"message": "m", "type": "server_error", '
                                                      '"param": null, "code": "c", "more": 1}}'))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"request": {"type": "nonsense"}}, "nonsense"),
        ({"examples": {"A number": {"text": 1}}}, "1 is not of type 'string'"),
        ({"responses": {200: ResponseDoc("It.", schema=TEXT, example={})}}, "'text' is a required property"),
        ({"parameters": (ParameterDoc("a", "query", "A."),) * 2}, "uplicate"),
    ],
)
def test_what_is_wrong_with_a_doc_is_found(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        description(**changes).check()


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (httpx.Response(201, json={"text": "a"}), "201 is not among 200, 400"),
        (httpx.Response(200, json={}), "'text' is a required property"),
        (httpx.Response(200, json={"text": "a", "more": 1}), "'more' was unexpected"),
        (httpx.Response(200, html="<p>"), "'text/html' is not among application/json, text/event-stream"),
        (httpx.Response(400, json={"error": "no"}), "'no' is not of type 'object'"),
        (stream('{"text": "a"}', '{"text": 1}'), "1 is not"),
    ],
)
def test_what_is_wrong_with_an_answer_is_found(response: httpx.Response, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        description().check_answer("post", "/v1/mine", response)


def test_unknown_fields_may_be_let_pass() -> None:
    description().check_answer("post", "/v1/mine", httpx.Response(200, json={"text": "a", "more": 1}), strict=False)


def test_examples_are_whole_requests() -> None:
    parameters = (ParameterDoc("id", "path", "Whose.", example="m 1"), ParameterDoc("size", "query", "How large."))
    doc = EndpointDoc("Mine", **{**RIGHT, "parameters": parameters})
    assert list(Description.of(doc, path="/v1/mine/{id}").examples()) == [
        Example("A text", "POST", "/v1/mine/m%201", "/v1/mine/{id}", {"text": "a"})
    ]
    plain = EndpointDoc("Mine", responses={200: ResponseDoc("It.")})
    assert [str(one) for one in Description.of(plain, method="GET").examples()] == ["GET /v1/mine"]
    assert list(Description.of(plain, method="DELETE").examples()) == []
    assert list(Description.of(plain, method="GET", path="/v1/mine/{id}").examples()) == []
    lines = EndpointDoc("Mine", request={"type": "string"}, request_media="text/plain", examples={"Lines": "a\nb"})
    [example] = Description.of(lines).examples()
    assert (example.media, example.content()) == ("text/plain", b"a\nb")
