"""What the manual of Local Chat Completion API prints: each request is sent as it stands, each answer has its shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.real_models.conftest import RunningServer, running_server
from tests.seeds.shape import extras

pytestmark = [pytest.mark.real_model, pytest.mark.process]

RESPONSE = {"model": "llama3.2", "output": {"role": "assistant", "content": "Arrr, the skies be grey..."}}
ASKED: dict[str, Any] = {
    "model": "llama3.2",
    "instructions": "You are a pirate. Always respond in pirate speak.",
    "input": "What is the weather like today?",
}
CHAT: dict[str, Any] = {
    "model": "llama3.2",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
}
COMPLETION = {
    "model": "llama3.2",
    "choices": [{"message": {"role": "assistant", "content": "The capital of France is Paris."}}],
}
KEY = "your-secret-key"


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server set up as theirs: the one key of their environment file, the simple shape of responses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", KEY)
        patch.setenv("DEFAULT_MODEL", "llama3.2")
        shape = '[plugin.responses]\nshape = "simple"\n'
        with running_server(tmp_path_factory.mktemp("simple"), aliases=("llama3.2",), define=shape) as running:
            yield running


@pytest.fixture
def client(simple: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=simple.url, headers={"x-api-key": KEY}, timeout=50) as client:
        yield client


@pytest.mark.parametrize("body", [ASKED, {"input": "Hello"}, {**ASKED, "temperature": 0.7}])
def test_responses(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert extras(RESPONSE, answer.json()) == set()


@pytest.mark.parametrize("n", [1, 3])
def test_chat(client: httpx.Client, n: int) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, "n": n}).json()
    assert extras(COMPLETION, answer) == {
        "choices[].finish_reason",
        "choices[].index",
        "choices[].logprobs",
        "choices[].message.refusal",
        "created",
        "id",
        "object",
        "system_fingerprint",
        "timings",
        "usage",
    }
    assert len(answer["choices"]) == n


def test_the_answer_that_is_printed(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, "temperature": 0.0}).json()
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_a_model_of_the_environment_answers_where_none_is_named(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json={"messages": CHAT["messages"], "max_tokens": 1})
    assert answer.json()["model"] == "localllm-demo"  # what llama3.2 is another name of


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/models", "/"])
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}])
def test_the_key_is_asked_for(simple: RunningServer, path: str, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=simple.url) as stranger:
        for method in ("GET", "POST"):
            assert stranger.request(method, path, json={"input": "Hello"}, headers=headers).status_code in (401, 405)
    assert httpx.get(f"{simple.url}/health").status_code == 200
