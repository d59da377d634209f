"""What localLLM-api's manual prints: requests are sent as they stand, answers have its shape, examples run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.seeds.shape import extras

pytestmark = [pytest.mark.real_model, pytest.mark.process]

CHAT_MODEL, EMBEDDER, RERANKER = (
    "Llama-3.2-1B-Instruct-Q4_K_M",
    "all-MiniLM-L6-v2.Q4_K_M",
    "bge-reranker-v2-m3-Q8_0",
)
USAGE = {"prompt_tokens": -1, "completion_tokens": -1, "total_tokens": -1}
COMPLETION = {
    "id": "chatcmpl-1234567890",
    "object": "chat.completion",
    "created": 1677649420,
    "model": CHAT_MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Of course!"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
CHATS: dict[str, dict[str, Any]] = {
    "reference": {
        "model": CHAT_MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello! Can you help me?"},
        ],
        "temperature": 0.7,
        "max_tokens": 1000,
    },
    "curl": {
        "model": CHAT_MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        "temperature": 0.7,
    },
}
VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [0.1], "index": 0}],
    "model": EMBEDDER,
    "usage": {"prompt_tokens": -1, "total_tokens": -1},
}
RANKED = {
    "object": "list",
    "model": RERANKER,
    "data": [
        {"object": "rerank_result", "document": "Most relevant document", "relevance_score": 0.95, "index": 0},
    ],
    "usage": {"prompt_tokens": -1, "total_tokens": -1},
}
RANKINGS: dict[str, dict[str, Any]] = {
    "reference": {"model": RERANKER, "query": "Your search query", "documents": ["doc1", "doc2", "doc3"]},
    "curl": {
        "model": RERANKER,
        "query": "search query",
        "documents": ["First document to rank", "Second document to rank", "Third document to rank"],
    },
}
LISTED = [{"name": EMBEDDER, "type": "embedding", "loaded": True}]
ERROR = {
    "error": {
        "message": "Error description",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
}


@pytest.mark.parametrize("name", CHATS)
def test_chat(http: httpx.Client, name: str) -> None:
    response = http.post("/v1/chat/completions", json=CHATS[name])
    assert response.status_code == 200, response.text
    assert extras(COMPLETION, response.json()) == {
        "choices[].logprobs",
        "choices[].message.refusal",
        "system_fingerprint",
        "timings",
        "usage.completion_tokens_details",
        "usage.prompt_tokens_details",
    }
    assert min(response.json()["usage"][name] for name in USAGE) > 0  # and not -1


@pytest.mark.parametrize("text", ["Your text to embed", ["text1", "text2"], "Example text to embed"])
@pytest.mark.parametrize("ending", ["", ".gguf"])
def test_embeddings(http: httpx.Client, text: Any, ending: str) -> None:
    response = http.post("/v1/embeddings", json={"model": EMBEDDER + ending, "input": text})
    assert response.status_code == 200, response.text
    assert extras(VECTORS, response.json()) == set()
    assert len(response.json()["data"]) == (1 if isinstance(text, str) else 2)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize("name", RANKINGS)
def test_rerank(http: httpx.Client, path: str, name: str) -> None:
    body = http.post(path, json=RANKINGS[name]).json()
    assert extras(RANKED, body) == {"id", "meta", "results", "scored_by"}
    scores = [entry["relevance_score"] for entry in body["data"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(entry["index"] for entry in body["data"]) == [0, 1, 2]
    assert all(entry["document"] == RANKINGS[name]["documents"][entry["index"]] for entry in body["data"])


@pytest.mark.parametrize("base", ["/v1", ""])
def test_loading_and_unloading_by_hand(http: httpx.Client, base: str) -> None:
    loaded = http.post(f"{base}/models/load", json={"model": CHAT_MODEL, "type": "chat"})
    assert (loaded.status_code, loaded.json()["success"]) == (200, True)
    assert extras(LISTED, http.get("/models/list").json()) <= {"[].instances"}
    unloaded = http.post(f"{base}/models/unload", json={"model": CHAT_MODEL})
    assert (unloaded.status_code, unloaded.json()["loaded"]) == (200, False)


def test_the_bare_list(http: httpx.Client) -> None:
    body = http.get("/models/list").json()
    assert {entry["type"] for entry in body} == {"chat", "embedding", "reranker"}
    listed = http.get("/v1/models").json()["data"]  # OpenAI's list has the same fields
    for bare, full in zip(body, listed, strict=True):
        assert bare["type"] == full["type"]
        assert bare["name"] == full["id"]
        assert isinstance(full["loaded"], bool)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHATS["curl"], "model": "none"}),
        ("/v1/embeddings", {"model": "none", "input": "x"}),
        ("/v1/rerank", {**RANKINGS["curl"], "model": "none"}),
        ("/v1/models/load", {"model": "none", "type": "chat"}),
        ("/v1/models/unload", {"model": "none"}),
    ],
)
def test_a_model_that_there_is_not(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 404
    assert extras(ERROR, response.json()) <= {"error.models", "error.kind"}
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": CHAT_MODEL}),
        ("/v1/embeddings", {"model": EMBEDDER}),
        ("/v1/rerank", {"model": RERANKER, "query": "x"}),
        ("/v1/models/load", {"type": "chat"}),
    ],
)
def test_what_is_missing(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400
    assert extras(ERROR, response.json()) == set()


NODE = """
import OpenAI from "openai";

const openai = new OpenAI({
  baseURL: "http://localhost:23673/v1", // Point to local server
  apiKey: "not-needed", // API key is not required but must be non-empty
});

// Chat completions
const chatCompletion = await openai.chat.completions.create({
  model: "Llama-3.2-1B-Instruct-Q4_K_M",
  messages: [{ role: "user", content: "Hello!" }],
});

// Embeddings
const embedding = await openai.embeddings.create({
  model: "all-MiniLM-L6-v2.Q4_K_M",
  input: "Hello world",
});
"""
SHOWN = """
console.log(JSON.stringify([chatCompletion.choices[0].message.role, embedding.data[0].embedding.length]));
"""


def test_node_client(run_node: Callable[..., str]) -> None:
    assert run_node(NODE + SHOWN, "example.mjs").startswith('["assistant",')


def test_models_go_after_thirty_minutes_unused() -> None:
    from localllm.config.schema import ModelsSection

    assert ModelsSection().idle_unload_minutes == 30
