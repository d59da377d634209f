"""Every answer of every endpoint is what the description of the service says of it, with no field too many."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from localllm.contract.errors import ContextLengthExceededError, WorkerCrashedError
from localllm.contract.generation import CallDelta, Chunk, TokenAlternative, TokenLogprob
from localllm.testing.description import Description
from tests.plugins.responses.kit import Server, run

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "description": "X."}
TOKEN = TokenLogprob("Hi", b"Hi", -0.5, (TokenAlternative("Hi", b"Hi", -0.5),))
ALL = [Chunk(0, "Hm.", 1, region="reasoning"), Chunk(0, "Hi", 1, (TOKEN,)), CallDelta(0, 0, "f", '{"x": 1}')]

REQUESTS: list[tuple[dict[str, Any], Any]] = [
    ({"input": "Hi"}, None),
    ({"input": "Hi", "tools": [TOOL, {"type": "mcp"}], "tool_choice": {"type": "function", "name": "f"}}, ALL),
    ({"input": "Hi", "top_logprobs": 1, "text": {"format": SCHEMA}, "metadata": {"a": "b"}, "user": "u"}, ALL),
    ({"input": "Hi", "reasoning": {"summary": "auto"}}, ALL),
    ({"input": "Hi", "background": True}, None),
    ({"input": "Hi", "instructions": "I", "reasoning": {"effort": "low"}, "truncation": "auto", "top_p": 0.5}, None),
    ({"input": "Hi", "previous_response_id": "resp_1"}, None),
    ({"input": "Hi", "conversation": "conv_1"}, None),
    ({"input": "Hi", "model": "nobody"}, None),
    ({"input": 5}, None),
    ({"input": "Hi"}, ContextLengthExceededError(9, 8)),
    ({"input": "Hi"}, WorkerCrashedError("gone", detail={"signal": "SIGSEGV"})),
]
ITEMS = [
    {"role": "user", "content": "1"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "2"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "3"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]},
]


async def description(server: Server) -> Description:
    return Description(await server.get("/openapi.json"))


def test_what_is_written(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        described = await description(server)
        described.check()
        for body, says in REQUESTS:
            for stream in (False, True):
                server.model.answers.extend([] if says is None else [says])
                answer = await server.post("/v1/responses", {**body, "stream": stream})
                described.check_answer("post", "/v1/responses", answer)
                server.model.answers.clear()
        counted = await server.post("/v1/responses/input_tokens", {"input": "Hi"})
        described.check_answer("post", "/v1/responses/input_tokens", counted)

    run(tmp_path, scenario)


def test_what_is_kept(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        described = await description(server)

        async def check(method: str, template: str, body: Any = None, **places: str) -> dict[str, Any]:
            answer = await server.client.request(method, template.format(**places), json=body)
            described.check_answer(method, template, answer)
            found: dict[str, Any] = answer.json()
            return found

        one = "/v1/responses/{response_id}"
        begun = await server.create(ITEMS, background=True)
        for response_id in (begun["id"], "resp_1"):
            for method, template in (
                ("GET", one),
                ("GET", f"{one}/input_items"),
                ("POST", f"{one}/cancel"),
                ("DELETE", one),
            ):
                await check(method, template, response_id=response_id)
        conversation = (await check("POST", "/v1/conversations", {"items": ITEMS}))["id"]
        one, items = "/v1/conversations/{conversation_id}", "/v1/conversations/{conversation_id}/items"
        for conversation_id in (conversation, "conv_1"):
            await check("GET", one, conversation_id=conversation_id)
            await check("POST", one, {"metadata": {}}, conversation_id=conversation_id)
            added = await check("POST", items, {"items": ITEMS}, conversation_id=conversation_id)
            item = added.get("last_id", "msg_1")
            await check("GET", items, conversation_id=conversation_id)
            await check("GET", f"{items}/{{item_id}}", conversation_id=conversation_id, item_id=item)
            await check("DELETE", f"{items}/{{item_id}}", conversation_id=conversation_id, item_id=item)
            await check("DELETE", one, conversation_id=conversation_id)

    run(tmp_path, scenario)


def test_the_simple_shape(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        described = await description(server)
        described.check()
        for body in ({"input": "Hi"}, {}):
            described.check_answer("post", "/v1/responses", await server.post("/v1/responses", body))
        assert [path for path in described.document["paths"] if "conversations" in path] == []
        fields = described.document["components"]["schemas"]["SimpleRequest"]["properties"]
        assert "instructions" in fields
        assert "stream" not in fields, "it is refused"

    run(tmp_path, scenario, shape="simple", keeps=False)


def test_streams_of_the_background(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        described = await description(server)
        template = "/v1/responses/{response_id}"
        server.model.gate = asyncio.Event()
        reading = asyncio.create_task(server.stream("Hi", background=True))
        await server.model.reached.wait()
        [response_id] = [key[2] for key in server.store._records]  # type: ignore[union-attr]
        following = asyncio.create_task(server.client.get(f"/v1/responses/{response_id}?stream=true"))
        server.model.gate.set()
        await reading
        described.check_answer("get", template, await following)

    run(tmp_path, scenario)
