"""Texts as a model sees them, over HTTP: tokens, spelling, templates, in the words of two services."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import localllm_tokenize
from localllm import (
    ChatPrompt,
    DetokenizeRequest,
    ModelKind,
    ModelSpec,
    OverloadedError,
    RenderRequest,
    TextPrompt,
    TokenizeRequest,
    WorkerCrashedError,
)
from localllm.openai import parse_chat
from localllm.testing.app import ScriptedModels

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
RENDERED = "system: Be brief.\nuser: Hi\nassistant:"
BEGIN = 257
PATHS = ("/tokenize", "/detokenize", "/apply-template", "/chat/completions/input_tokens")


@pytest.fixture
def server(make_server: Any) -> Any:
    specs = [ModelSpec("chat", "scripted", aliases=("c",)), ModelSpec("embedder", "scripted", kind=ModelKind.EMBEDDING)]
    return make_server(localllm_tokenize, models=ScriptedModels(specs))


def test_a_text_in_llama_cpps_words_goes_without_a_first_token(server: Any) -> None:
    answer = server.post("/tokenize", {"content": "hé"})
    assert answer.json == {"tokens": list("hé".encode()), "count": 3, "max_model_len": 2048}
    assert server.client.text_requests == [TokenizeRequest(TextPrompt("hé"))]
    assert server.post("/tokenize", {"content": "h", "add_special": True}).json["tokens"] == [BEGIN, 104]


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_a_text_in_vllms_words_has_one(server: Any, name: str) -> None:
    assert server.post("/tokenize", {"model": "c", name: "h"}).json["tokens"] == [BEGIN, 104]
    assert server.post("/tokenize", {name: "h", "add_special_tokens": False}).json["tokens"] == [104]
    bare = server.post("/tokenize", {name: "h", "add_special": False, "add_special_tokens": None})
    assert bare.json["tokens"] == [104]


def test_control_tokens_are_read_unless_told_otherwise(server: Any) -> None:
    assert server.post("/tokenize", {"content": "<|end|>"}).json["tokens"] == [256]
    plain = server.post("/tokenize", {"content": "<|end|>", "parse_special": False}).json["tokens"]
    assert plain == list(b"<|end|>")


def test_pieces_are_text_or_bytes_and_control_tokens_are_written_out(server: Any) -> None:
    answer = server.post("/tokenize", {"content": "aé<|end|>", "with_pieces": True, "return_token_strs": True}).json
    assert answer == {
        "tokens": [
            {"id": 97, "piece": "a"},
            {"id": 0xC3, "piece": [0xC3]},
            {"id": 0xA9, "piece": [0xA9]},
            {"id": 256, "piece": "<|end|>"},
        ],
        "token_strs": ["a", "\ufffd", "\ufffd", "<|end|>"],
        "count": 4,
        "max_model_len": 2048,
    }
    assert server.post("/tokenize", {"content": "a", "return_token_strs": True}).json["tokens"] == [97]


def test_an_empty_text_has_no_tokens(server: Any) -> None:
    assert server.post("/tokenize", {"content": ""}).json == {"tokens": [], "count": 0, "max_model_len": 2048}
    assert server.post("/detokenize", {"tokens": []}).json == {"content": "", "prompt": ""}


def test_tokens_are_spelled_with_control_tokens_and_broken_utf_8_replaced(server: Any) -> None:
    answer = server.post("/detokenize", {"tokens": [BEGIN, *"aé".encode(), 0xC3, 256]})
    assert answer.json == {"content": "<|begin|>aé\ufffd<|end|>", "prompt": "<|begin|>aé\ufffd<|end|>"}
    assert isinstance(server.client.text_requests[0], DetokenizeRequest)
    unknown = server.post("/detokenize", {"tokens": [5, 70_000]})
    assert (unknown.status, unknown.json["error"]["param"]) == (400, "tokens")
    assert "70000" in unknown.json["error"]["message"]


def test_there_and_back_gives_a_long_text_again(server: Any) -> None:
    text = "Grüße, 世界! <|end|> " * 5_000
    tokens = server.post("/tokenize", {"content": text}).json
    assert tokens["count"] == len(tokens["tokens"]) > 90_000
    assert server.post("/detokenize", {"tokens": tokens["tokens"]}).json["content"] == text


def test_messages_are_rendered_as_for_the_chat_endpoint(server: Any) -> None:
    body = {"messages": MESSAGES, "chat_template_kwargs": {"style": "terse"}}
    assert server.post("/apply-template", body).json == {"prompt": RENDERED}
    assert server.post("/tokenize", body).json["tokens"] == list(RENDERED.encode())
    counted = server.post("/v1/chat/completions/input_tokens", body).json
    assert counted == {"object": "response.input_tokens", "input_tokens": len(RENDERED)}
    asked = server.client.text_requests
    assert [type(one) for one in asked] == [RenderRequest, TokenizeRequest, TokenizeRequest]
    assert all(isinstance(one.prompt, ChatPrompt) for one in asked)
    assert all(one.prompt.template_kwargs == {"style": "terse"} for one in asked)


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
ROUND = [
    *MESSAGES,
    {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{"}}], "reasoning": "hm"},
    {"role": "tool", "content": [{"type": "text", "text": "sunny"}]},
]


@pytest.mark.parametrize("path", ["/tokenize", "/apply-template", "/chat/completions/input_tokens"])
def test_tools_and_thoughts_make_the_prompt_that_the_chat_endpoint_makes(server: Any, path: str) -> None:
    body = {
        "messages": ROUND,
        "tools": [WEATHER],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "reasoning_effort": "none",
        "thinking_budget": 7,
        "stream": True,
        "max_tokens": 5,
    }
    assert server.post(path, body).status == 200
    (asked,) = server.client.text_requests
    assert asked.prompt == parse_chat(body).generate_request().prompt
    assert asked.prompt.tools == (WEATHER,)
    assert asked.prompt.messages[2]["tool_calls"][0]["function"]["arguments"] == "{"
    assert asked.prompt.template_kwargs == {"enable_thinking": False, "thinking": False}
    refused = server.post(path, {"messages": MESSAGES, "tools": [{"type": "function"}]})
    assert (refused.status, refused.json["error"]["param"]) == (400, "tools[0].function")


@pytest.mark.parametrize("path", ["/tokenize", "/apply-template", "/chat/completions/input_tokens"])
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("Hi", "messages"),
        ([{"role": "king", "content": "Hi"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
    ],
)
def test_messages_are_checked_as_for_the_chat_endpoint(server: Any, path: str, messages: Any, param: str) -> None:
    answer = server.post(path, {"messages": messages})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert server.client.text_requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": None}, "content"),
        ("/tokenize", {"content": "a", "prompt": "b"}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages"),
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "a", "add_special": "yes"}, "add_special"),
        ("/tokenize", {"content": "a", "with_pieces": 1}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [1, "2"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**40]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
        ("/chat/completions/input_tokens", {"messages": None}, "messages"),
    ],
)
def test_what_is_wrong_is_named(server: Any, path: str, body: Any, param: str) -> None:
    answer = server.post(path, body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert server.client.text_requests == []


def test_an_embedding_model_is_refused_and_an_unknown_one_not_found(server: Any) -> None:
    refused = server.post("/tokenize", {"content": "a", "model": "embedder"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "model_unsupported")
    unknown = server.post("/detokenize", {"tokens": [1], "model": "nobody"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("failure", "status"), [(OverloadedError("full"), 503), (WorkerCrashedError("it died"), 502)])
def test_errors_of_the_model_have_their_status(server: Any, failure: Exception, status: int) -> None:
    server.client.answers.append(failure)
    assert server.post("/tokenize", {"content": "a"}).status == status
    assert server.post("/tokenize", {"content": "a"}).status == 200


def test_a_client_that_leaves_frees_the_model(server: Any, leave_midway: Any) -> None:
    async def scenario() -> None:
        leave = leave_midway(server.client)
        server.client.text_gate = server.client.pool_gate
        task = asyncio.create_task(server.request("/tokenize", {"content": "a"}, leave=leave))
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()
        assert (server.client.n_open, server.models.n_acquired) == (0, 0)

    asyncio.run(scenario())


def test_each_path_is_there_with_and_without_a_version(server: Any) -> None:
    paths = {f"{prefix}{path}" for path in PATHS for prefix in ("", "/v1")}
    assert set(server.names) == {f"tokenize:{path}" for path in paths}
    assert server.post("/v1/tokenize", {"content": "a"}).json["tokens"] == [97]
