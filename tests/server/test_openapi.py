"""The description of all endpoints: true, valid, the same at each start, and made only when somebody asks."""

from __future__ import annotations

import random
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localllm.contract.endpoint_doc import EndpointDoc, ParameterDoc, ResponseDoc
from localllm.server.core_routes import core_routes
from localllm.server.docs_routes import UNTOLD_VERSION
from localllm.server.drain import Drain
from localllm.server.model_routes import model_routes
from localllm.server.openapi import describe_api
from localllm.server.routes import RouteEntry
from localllm.testing.description import Description
from tests.server.kit import FakeHost, FakePlugins, Kit, make_kit, run

KEY = "sk-test-0123456789abcdef"


async def answer(request: Request) -> Response:
    return JSONResponse({"done": True})


def entry(path: str = "/v1/mine", *methods: str, name: str = "", **options: Any) -> RouteEntry:
    options.setdefault("doc", EndpointDoc("Mine"))
    return RouteEntry(Route(path, answer, methods=list(methods) or ["POST"]), name or path, **options)


def describe(*entries: RouteEntry, has_keys: bool = False) -> dict[str, Any]:
    document = describe_api(entries, version="1", has_keys=has_keys)
    Description(document).check()
    return document


CORE = [*core_routes(FakeHost(), {}, Drain()), *model_routes(FakeHost())]  # type: ignore[arg-type]


def test_the_core_describes_all_its_endpoints_but_for_aliases() -> None:
    document = describe(*CORE)
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    for one in CORE:
        assert isinstance(one.route, Route)
        path = one.route.path.replace(":path", "")
        [method] = (one.route.methods or set()) - {"HEAD"}
        is_alias = (f"/v1{path}", method.lower()) in described
        assert is_alias is ((path, method.lower()) not in described), path


def test_the_order_of_the_routes_changes_nothing() -> None:
    entries = [*CORE, entry("/a"), entry("/b", doc=EndpointDoc("B", request={"title": "Mine", "type": "object"}))]
    documents = []
    for seed in range(5):
        random.Random(seed).shuffle(entries)
        documents.append(describe(*entries))
    assert all(document == documents[0] for document in documents)
    assert list(documents[0]["paths"]) == sorted(documents[0]["paths"])


def test_what_is_not_below_v1_is_shown_last() -> None:
    docs = {"/api/x": "Another", "/health": "server", "/v1/chat": "chat", "/v1/admin": "server", "/v2/rerank": "rank"}
    entries = [entry(path, doc=EndpointDoc("A summary", tag=tag)) for path, tag in docs.items()]
    assert [tag["name"] for tag in describe(*entries)["tags"]] == ["chat", "server", "Another", "rank"]


def test_routes_without_a_doc_are_left_out() -> None:
    assert describe(entry(doc=None))["paths"] == {}


def test_an_operation_says_what_its_doc_says() -> None:
    doc = EndpointDoc(
        "Mine",
        description="All mine.",
        tag="mine",
        request={"title": "MineRequest", "type": "object", "properties": {"text": {"type": "string"}}},
        examples={"A text": {"text": "a"}, "a-text": {"text": "b"}},
        parameters=(ParameterDoc("size", "query", "How large.", {"type": "integer"}, example=3),),
        responses={
            200: ResponseDoc(
                "It.",
                schema={"type": "object"},
                media=("application/json", "text/event-stream", "text/plain"),
                example={},
                events={"title": "MineEvent", "type": "object"},
                headers={"x-mine": "Whose."},
            ),
            204: ResponseDoc("Nothing.", media=()),
        },
        errors=(404, 418),
    )
    operation = describe(entry("/v1/mine/{id:path}", doc=doc))["paths"]["/v1/mine/{id}"]["post"]
    assert operation["summary"] == "Mine"
    assert operation["description"] == "All mine."
    assert operation["tags"] == ["mine"]
    assert operation["operationId"] == "post_v1_mine_id"
    assert operation["parameters"] == [
        {
            "name": "size",
            "in": "query",
            "required": False,
            "schema": {"type": "integer"},
            "description": "How large.",
            "example": 3,
        },
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
    ]
    body = operation["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/MineRequest"}
    assert {key: one["value"] for key, one in body["examples"].items()} == {
        "a_text": {"text": "a"},
        "a_text_2": {"text": "b"},
    }
    assert operation["responses"]["204"] == {"description": "Nothing."}
    good = operation["responses"]["200"]
    assert good["headers"]["x-mine"]["description"] == "Whose."
    assert good["content"]["application/json"] == {"schema": {"type": "object"}, "example": {}}
    assert good["content"]["text/plain"] == {"schema": {"type": "string"}}
    assert "MineEvent" in str(good["content"]["text/event-stream"])
    assert operation["responses"]["404"] == {"$ref": "#/components/responses/Error404"}
    assert "418" in operation["responses"]


@pytest.mark.parametrize("form", ["openai", "detail"])
def test_errors_have_the_form_of_the_route(form: Any) -> None:
    document = describe(entry(errors=form))
    name = {"openai": "Error", "detail": "Detail"}[form]
    answers = document["paths"]["/v1/mine"]["post"]["responses"]
    assert {one["$ref"].rpartition("/")[2] for one in answers.values()} == {f"{name}{status}" for status in answers}
    assert name in document["components"]["schemas"]


def test_statuses_are_those_that_any_endpoint_may_answer() -> None:
    request = {"type": "object"}
    plain = describe(entry())["paths"]["/v1/mine"]["post"]["responses"]
    assert {"400", "403", "408", "414", "415", "431", "500", "503", "504"} == set(plain)
    with_body = describe(entry(doc=EndpointDoc("", request=request)))["paths"]["/v1/mine"]["post"]["responses"]
    assert set(with_body) - set(plain) == {"413"}
    guarded = describe(entry(), has_keys=True)["paths"]["/v1/mine"]["post"]["responses"]
    assert set(guarded) - set(plain) == {"401"}


def test_keys_are_asked_for_only_where_there_are_some() -> None:
    entries = entry(), entry("/open", public=True)
    without = describe(*entries)
    assert "security" not in without
    assert "securitySchemes" not in without["components"]
    having = describe(*entries, has_keys=True)
    assert having["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert having["paths"]["/open"]["post"]["security"] == []
    assert "security" not in having["paths"]["/v1/mine"]["post"]
    assert "401" not in having["paths"]["/open"]["post"]["responses"]


def test_what_fails_to_describe_itself_is_named() -> None:
    def fail() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        describe(entry(doc=EndpointDoc("", request=fail)))
    assert caught.value.__notes__ == ["while describing POST /v1/mine, the route '/v1/mine'"]


def kit_with(doc: EndpointDoc | None, **server: Any) -> Kit:
    plugins = FakePlugins(FakeHost())
    plugins.add("/v1/mine", answer, name="mine", doc=doc)
    return make_kit(plugins=plugins, **server)


def test_schemas_are_made_once_and_only_when_somebody_asks() -> None:
    calls: list[int] = []

    def schema() -> dict[str, Any]:
        calls.append(1)
        return {"type": "object"}

    async def scenario() -> None:
        kit = kit_with(EndpointDoc("Mine", request=schema))
        await kit.request("POST", "/v1/mine", json={})
        assert calls == []
        first = await kit.request("GET", "/openapi.json")
        assert (await kit.request("GET", "/openapi.json")).content == first.content
        assert calls == [1]
        assert "/v1/mine" in first.json()["paths"]

    run(scenario())


def test_the_version_is_told_to_those_with_a_key() -> None:
    async def versions(**server: Any) -> list[str]:
        kit = kit_with(None, **server)
        answers = [await kit.request("GET", "/openapi.json", headers=headers) for headers in ({}, {"x-api-key": KEY})]
        assert all(("vary" in one.headers) is bool(server) for one in answers)
        return [one.json()["info"]["version"] for one in answers]

    guarded = run(versions(api_keys=[KEY]))
    assert guarded[0] == UNTOLD_VERSION
    assert guarded[1][0].isdigit()
    assert run(versions()) == [guarded[1]] * 2


def test_a_client_that_has_it_is_told_so() -> None:
    async def scenario() -> None:
        kit = kit_with(None)
        first = await kit.request("GET", "/openapi.json")
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}'):
            again = await kit.request("GET", "/openapi.json", headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert (await kit.request("GET", "/openapi.json", headers={"if-none-match": '"other"'})).status_code == 200

    run(scenario())


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/start.js"])
def test_it_can_be_left_out(path: str) -> None:
    assert run(kit_with(None, docs=False).request("GET", path)).status_code == 404
