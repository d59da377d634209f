"""What /openapi.json says, held against the real server: its examples work, and nothing that it allows breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from localllm.testing.description import Description, Example
from tests.real_models.conftest import RunningServer
from tests.real_models.fuzz_kit import fuzz, fuzzed_server

FUZZ_SECONDS = 60
OUTLINED = ("/v1/responses", "/v1/conversations")
"""Described in outline only: their tests hold each field against the models of OpenAI's client."""


@pytest.fixture(scope="module")
def described_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with fuzzed_server(tmp_path_factory.mktemp("described")) as server:
        yield server


@pytest.fixture(scope="module")
def client(described_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=described_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def description(client: httpx.Client) -> Description:
    return Description(client.get("/openapi.json").json())


def test_it_is_valid_openapi_and_its_examples_have_their_forms(description: Description) -> None:
    description.check()


def test_every_example_works(client: httpx.Client, description: Description) -> None:
    examples = list(description.examples())
    for example in examples:
        headers = {"content-type": example.media}
        response = client.request(example.method, example.path, content=example.content(), headers=headers)
        assert response.is_success, f"{example}: {response.text}"
        is_outline = example.template.startswith(OUTLINED)
        description.check_answer(example.method, example.template, response, strict=not is_outline)
        check_stream(example, response)
    asked = {example.template for example in examples}
    assert {"/health", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"} <= asked


def check_stream(example: Example, response: httpx.Response) -> None:
    if isinstance(example.body, dict) and example.body.get("stream") is True:
        assert response.headers["content-type"].startswith("text/event-stream"), str(example)
        assert '{"error"' not in response.text, str(example)


def test_a_model_by_its_id(client: httpx.Client, description: Description) -> None:
    for model in client.get("/v1/models").json()["data"]:
        description.check_answer("get", "/v1/models/{id}", client.get(f"/v1/models/{model['id']}"))


def test_loading_and_letting_go(client: httpx.Client, description: Description) -> None:
    for verb in ("load", "unload"):
        path = f"/v1/models/{verb}"
        for body in ({"model": "localllm-demo"}, {"model": "nobody"}, {}):
            description.check_answer("post", path, client.post(path, json=body))


def test_what_clients_may_not_do_is_refused_as_described(client: httpx.Client, description: Description) -> None:
    refused = client.post("/v1/models/pull", json={"source": "hf:org/repo"})
    assert refused.json()["error"]["code"] == "operation_not_allowed"
    description.check_answer("post", "/v1/models/pull", refused)
    refused = client.delete("/v1/models/localllm-demo")
    assert refused.json()["error"]["code"] == "operation_not_allowed"
    description.check_answer("delete", "/v1/models/{id}", refused)


@pytest.mark.timeout(FUZZ_SECONDS + 180)
def test_nothing_that_it_allows_breaks_the_server(described_server: RunningServer, tmp_path: Path) -> None:
    found = fuzz(described_server.url, tmp_path, seconds=FUZZ_SECONDS, seed=20)
    assert found.returncode == 0, found.stdout + found.stderr
    assert not [line for line in described_server.log if "Traceback" in line]
