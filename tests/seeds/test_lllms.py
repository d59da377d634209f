"""What lllms' manual prints: each request is sent as it stands, each answer has its shape."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.seeds.shape import ANY, extras

pytestmark = [pytest.mark.real_model, pytest.mark.process]

REQUEST: dict[str, Any] = {
    "model": "phi3-mini-4k",
    "messages": [
        {"role": "system", "content": "You are the Batman."},
        {"role": "user", "content": "im robin, lets count to 10!"},
    ],
}
COMPLETION = {
    "id": "phi3-mini-4k:pfBGvlYg-z6dPZUn9",
    "model": "phi3-mini-4k",
    "object": "chat.completion",
    "created": 1720412918,
    "system_fingerprint": "b38af554bea1fb9867db54ebeff59d0590c5ce48",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, Robin! ..."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 118, "total_tokens": 130},
}
STATE = {
    "pool": {
        "processing": 0,
        "pending": 0,
        "instances": {
            "localllm-demo:generate-0": {
                "model": "phi3-mini-4k",
                "status": "idle",
                "engine": "node-llama-cpp",
                "device": "cpu",
                "contextState": ANY,
                "lastUsed": ANY,
            }
        },
    },
    "store": {
        "localllm-demo": {
            "engine": "node-llama-cpp",
            "device": "cpu",
            "minInstances": 1,
            "maxInstances": 2,
            "status": "ready",
            "downloads": [],
        }
    },
}


@pytest.mark.parametrize("base", ["/openai/v1", "/v1"])
def test_chat(http: httpx.Client, base: str) -> None:
    response = http.post(f"{base}/chat/completions", json=REQUEST)
    assert response.status_code == 200, response.text
    assert extras(COMPLETION, response.json()) == {
        "choices[].message.refusal",
        "timings",
        "usage.completion_tokens_details",
        "usage.prompt_tokens_details",
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", REQUEST),
        ("completions", {"model": "phi3-mini-4k", "prompt": "Hello", "max_tokens": 4}),
        ("embeddings", {"model": "phi3-mini-4k", "input": "Hello"}),
        ("models", None),
    ],
)
def test_each_endpoint_of_the_table(http: httpx.Client, path: str, body: Any) -> None:
    address = f"/openai/v1/{path}"
    response = http.get(address) if body is None else http.post(address, json=body)
    assert response.status_code == 200, response.text


PARAMETERS = {
    "temperature": 1,
    "max_tokens": 4,
    "top_p": 0.9,
    "stop": ["\n"],
    "seed": 7,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": -1},
    "response_format": {"type": "text"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "none",
    "top_k": 40,
    "min_p": 0.05,
    "repeat_penalty_num": 64,
    "repeat_penalty": 1.1,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_of_the_tables(http: httpx.Client, name: str) -> None:
    with_it = {**REQUEST, "max_tokens": 4, name: PARAMETERS[name]}
    if name == "top_logprobs":
        with_it["logprobs"] = True
    response = http.post("/openai/v1/chat/completions", json=with_it)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "fields", [{"suffix": " world"}, {"echo": True}, {"best_of": 2}, {"suffix": "", "stream": True}]
)
def test_each_parameter_of_completions_that_the_tables_have(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"model": "phi3-mini-4k", "prompt": "Hello", "max_tokens": 4, **fields}
    response = http.post("/openai/v1/completions", json=body)
    no_place_for_it = response.status_code == 400 and "suffix" in response.text  # the toy has no tokens to infill by
    assert response.status_code == 200 or no_place_for_it, response.text


def test_the_state_of_the_server(http: httpx.Client) -> None:
    http.post("/openai/v1/chat/completions", json={**REQUEST, "max_tokens": 1})
    body = http.get("/").json()
    [instances, models] = [body["pool"]["instances"], body["store"]]
    for others, name in ((instances, "localllm-demo:generate-0"), (models, "localllm-demo")):
        for other in set(others) - {name}:
            del others[other]
    assert extras(STATE, body) == set()


def test_a_browser_gets_a_page(http: httpx.Client) -> None:
    page = http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "phi3-mini-4k" not in page.text  # ids are shown, not aliases
    assert "localllm-demo" in page.text
