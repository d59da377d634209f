"""Answers are what the description says of them: every status, every content type, and no field too many."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from localllm import CallDelta, Chunk, ModelKind, ModelSpec
from localllm.contract.errors import ContextLengthExceededError, ModelBusyError, WorkerCrashedError
from localllm.plugin_discovery import BUILT_INS
from localllm.testing.app import SCRIPTED_MODEL, InProcessServer, ScriptedModels, serve_in_process
from localllm.testing.description import Description

SPECS = (SCRIPTED_MODEL, ModelSpec("embedder", "scripted", kind=ModelKind.EMBEDDING))
RERANKER = ModelSpec("ranker", "scripted", kind=ModelKind.RERANKER)
PLUGINS = {name: f"localllm_{name}" for name in BUILT_INS if name not in ("llama_cpp", "sources")}

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLS = (Chunk(0, "hm", tokens=1, region="reasoning"), CallDelta(0, 0, name="f", arguments='{"a":1}', tokens=2))

REQUESTS: list[tuple[str, dict[str, Any], Any]] = [
    (CHAT, {"messages": [USER], "n": 2}, None),
    (CHAT, {"messages": [USER], "tools": [TOOL]}, CALLS),
    (CHAT, {"messages": [USER], "functions": [TOOL["function"]]}, CALLS),
    (CHAT, {"messages": []}, None),
    (CHAT, {"messages": [USER], "model": "nobody"}, None),
    (CHAT, {"messages": [USER], "lora": 1, "n": 0}, None),
    (CHAT, {"messages": [USER]}, ContextLengthExceededError(9, 8)),
    (CHAT, {"messages": [USER]}, ModelBusyError("busy", detail={"in_flight": 1})),
    (CHAT, {"messages": [USER]}, WorkerCrashedError("gone", detail={"signal": "SIGSEGV"})),
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 1, "echo": True}, None),
    ("/v1/completions", {"prompt": "a", "n": 2, "timings_per_token": True}, None),
    ("/v1/embeddings", {"input": ["a", "b b"]}, None),
    ("/v1/embeddings", {"input": "a " * 5000, "truncate": True, "encoding_format": "base64"}, None),
    ("/v1/rerank", {"query": "a", "documents": ["a", {"text": "b", "more": [1]}]}, None),
    ("/v1/rerank", {"query": "a", "documents": ["a " * 5000, "b"], "truncate": True}, None),
    ("/v1/rerank", {"query": "a", "documents": ["a", "b"], "return_documents": False}, None),
    ("/v1/rerank", {"query": "a", "texts": ["a", "b"], "return_text": True}, None),
    ("/v2/rerank", {"query": "a", "documents": ["a", "b"]}, None),
    ("/v2/rerank", {"query": "a", "texts": ["a", "b"]}, None),
    ("/v1/tokenize", {"content": "aé", "with_pieces": True}, None),
    ("/v1/tokenize", {"prompt": "a", "return_token_strs": True}, None),
    ("/v1/tokenize", {}, None),
    ("/v1/detokenize", {"tokens": [97, 98]}, None),
    ("/v1/apply-template", {"messages": [USER]}, None),
    ("/v1/chat/completions/input_tokens", {"messages": [USER]}, None),
]


def serve(directory: Path) -> Any:
    return serve_in_process(PLUGINS, directory, models=ScriptedModels([*SPECS, RERANKER]))


async def description(server: InProcessServer) -> Description:
    return Description((await server.client.get("/openapi.json")).json())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_answers(tmp_path: Path, is_stream: bool) -> None:
    async def scenario() -> None:
        async with serve(tmp_path) as server:
            described = await description(server)
            for path, body, says in REQUESTS:
                server.model.answers.extend([] if says is None else [says])
                response = await server.client.post(path, json={**body, **({"stream": True} if is_stream else {})})
                described.check_answer("post", path, response)
                server.model.answers.clear()

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "both"])
def test_thoughts_under_each_name(tmp_path: Path, field: str) -> None:
    async def scenario() -> None:
        config = {"plugin": {"chat": {"reasoning_field": field}}}
        async with serve_in_process({"chat": "localllm_chat"}, tmp_path, config=config) as server:
            described = await description(server)
            for stream in (False, True):
                server.model.answers.append(CALLS)
                response = await server.client.post(CHAT, json={"messages": [USER], "tools": [TOOL], "stream": stream})
                assert "hm" in response.text
                described.check_answer("post", CHAT, response)

    asyncio.run(scenario())


def test_all_built_in_plugins_describe_their_endpoints(tmp_path: Path) -> None:
    """One that has no doc must be another way to write one that has."""

    async def scenario() -> None:
        async with serve(tmp_path) as server:
            described = await description(server)
            described.check()
            known = set(described.document["paths"])
            for one in server.plugins.routes:
                path = one.route.path.replace(":path", "")  # type: ignore[attr-defined]
                names = {
                    path,
                    f"/v1{path}",
                    path.replace("reranking", "rerank"),
                    f"/v1{path}".replace("ranking", "rank"),
                }
                assert names & known, f"{one.name} of {one.plugin} has no doc"

    asyncio.run(scenario())


def test_what_is_not_described_is_found(tmp_path: Path) -> None:
    """The check itself: an answer of another status, of another type, with a field too many."""

    async def scenario() -> None:
        async with serve(tmp_path) as server:
            described = await description(server)
            answer = described.document["paths"]["/v1/detokenize"]["post"]["responses"]
            response = await server.client.post("/v1/detokenize", json={"tokens": [97]})
            schema = described.document["components"]["schemas"]["Detokenized"]
            del schema["properties"]["prompt"]
            with pytest.raises(AssertionError, match="prompt"):
                described.check_answer("post", "/v1/detokenize", response)
            described.check_answer("post", "/v1/detokenize", response, strict=False)
            answer["200"]["content"] = {"text/plain": {}}
            with pytest.raises(AssertionError, match="content type"):
                described.check_answer("post", "/v1/detokenize", response)
            del answer["200"]
            with pytest.raises(AssertionError, match="200 is not among"):
                described.check_answer("post", "/v1/detokenize", response)

    asyncio.run(scenario())
