"""The embeddings endpoint in process: forms of input, both encodings, order, errors, clients that leave."""

from __future__ import annotations

import asyncio
import base64
import struct
from itertools import pairwise
from typing import Any

import pytest

import localllm_embeddings
from localllm.contract.errors import OverloadedError, WorkerCrashedError
from localllm.contract.generation import TextPrompt, TokenPrompt
from localllm.contract.pooling import PoolRequest
from localllm.testing.scripted_pooling import scripted_vector

PATH = "/v1/embeddings"


@pytest.fixture
def server(make_server: Any, pooling_models: Any) -> Any:
    return make_server(localllm_embeddings, models=pooling_models)


def vectors(body: Any) -> list[list[float]]:
    """Return the answer's vectors after checking everything around them."""
    assert body["object"] == "list"
    assert [item["index"] for item in body["data"]] == list(range(len(body["data"])))
    assert {item["object"] for item in body["data"]} == {"embedding"}
    return [item["embedding"] for item in body["data"]]


def test_one_text(server: Any) -> None:
    answer = server.post(PATH, {"input": "some words", "model": "embedder", "user": "me"})
    assert list(answer.json) == ["object", "data", "model", "usage"]
    assert vectors(answer.json) == [pytest.approx(scripted_vector("some words"))]
    assert answer.json["model"] == "embedder"
    assert answer.json["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert server.models.n_acquired == server.models.model.n_open == 0


def test_answers_are_in_the_order_of_the_inputs_though_batches_are_not(server: Any) -> None:
    texts = [" ".join(f"w{number}" for number in range(length)) for length in (1, 9, 3, 7, 2, 5, 8, 4, 6)]
    body = server.post(PATH, {"input": texts}).json
    assert vectors(body) == [pytest.approx(scripted_vector(text)) for text in texts]
    assert body["usage"]["prompt_tokens"] == sum(range(1, 10)) + 2 * len(texts)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("a b", [TextPrompt("a b")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([7, 8], [TokenPrompt((7, 8))]),
        ([[7], [8, 9]], [TokenPrompt((7,)), TokenPrompt((8, 9))]),
    ],
)
def test_four_forms_of_input(server: Any, given: Any, asked: list[Any]) -> None:
    assert len(vectors(server.post(PATH, {"input": given}).json)) == len(asked)
    assert server.client.pool_requests == [PoolRequest(tuple(asked))]


def test_base64_holds_the_same_floats(server: Any) -> None:
    texts = ["a", "b c", "d e f"]
    floats = vectors(server.post(PATH, {"input": texts}).json)
    encoded = vectors(server.post(PATH, {"input": texts, "encoding_format": "base64"}).json)
    assert [list(struct.unpack("<32f", base64.b64decode(one, validate=True))) for one in encoded] == floats  # type: ignore[arg-type]


def test_dimensions_truncation_and_length_reach_the_model(server: Any) -> None:
    body = {"input": "a b c", "dimensions": 3, "truncate": True, "normalize": False}
    (vector,) = vectors(server.post(PATH, body).json)
    assert len(vector) == 3
    assert server.client.pool_requests == [PoolRequest((TextPrompt("a b c"),), True, dimensions=3, normalize=False)]
    too_many = server.post(PATH, {"input": "a", "dimensions": 33})
    assert (too_many.status, too_many.json["error"]["param"]) == (400, "dimensions")
    assert "1 to 32 dimensions" in too_many.json["error"]["message"]


def test_a_text_that_is_too_long_is_refused_or_cut(server: Any) -> None:
    server.client.info = type(server.client.info)(context_length=5, n_vocab=256)
    texts = ["a", "a b c d", "b"]
    refused = server.post(PATH, {"input": texts})
    error = refused.json["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (6, 5)
    cut = server.post(PATH, {"input": texts, "truncate": True}).json
    assert (len(vectors(cut)), cut["truncated"]) == (3, [1])


def test_as_many_inputs_as_may_be_come_in_pieces_of_one_answer(server: Any) -> None:
    texts = [f"w{number}" for number in range(2048)]
    n_writes: list[int] = []
    answer = asyncio.run(server.request(PATH, {"input": texts}, on_send=lambda sent: n_writes.append(len(sent.body))))
    assert vectors(answer.json) == [pytest.approx(scripted_vector(text)) for text in texts]
    assert max(after - before for before, after in pairwise(n_writes)) < 128 * 1024
    refused = server.post(PATH, {"input": [*texts, "one more"]})
    assert (refused.status, refused.json["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([[]], "input[0]"),
        ([[1], []], "input[1]"),
        (["a", None], "input[1]"),
        (["a", [1]], "input[1]"),
        ([1, "a"], "input[1]"),
        ([-1], "input[0]"),
        (5, "input"),
        ({}, "input"),
        (None, "input"),
    ],
)
def test_empty_and_mixed_input_is_refused_by_path(server: Any, given: Any, param: str) -> None:
    answer = server.post(PATH, {"input": given})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert server.client.pool_requests == []


def test_a_chat_model_pools_and_a_reranker_is_refused(server: Any) -> None:
    assert server.post(PATH, {"input": "a", "model": "chat"}).json["model"] == "chat"
    refused = server.post(PATH, {"input": "a", "model": "reranker"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "model_unsupported")
    unknown = server.post(PATH, {"input": "a", "model": "nobody"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("failure", "status"), [(OverloadedError("full"), 503), (WorkerCrashedError("it died"), 502)])
def test_errors_of_the_model_have_their_status(server: Any, failure: Exception, status: int) -> None:
    server.client.answers.append(failure)
    assert server.post(PATH, {"input": "a"}).status == status
    assert server.post(PATH, {"input": "a"}).status == 200


def test_a_client_that_leaves_frees_the_model(server: Any, leave_midway: Any) -> None:
    async def scenario() -> None:
        leave = leave_midway(server.client)
        task = asyncio.create_task(server.request(PATH, {"input": ["a"] * 9}, leave=leave))
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()
        assert (server.client.n_open, server.models.n_acquired) == (0, 0)

    asyncio.run(scenario())


def test_path_without_version(server: Any) -> None:
    assert server.post("/embeddings", {"input": "a"}).status == 200
    assert server.names == ["embeddings:/v1/embeddings", "embeddings:/embeddings"]
