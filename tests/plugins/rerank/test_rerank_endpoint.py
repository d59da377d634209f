"""The rerank endpoint in process: every dialect, by head and by cosine, errors, clients that leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import exp
from typing import Any

import pytest

import localllm_rerank
from localllm.contract.errors import WorkerCrashedError
from localllm.contract.generation import TextPrompt
from localllm.contract.pooling import PairPrompt, PoolRequest
from localllm.testing.scripted_pooling import scripted_score, scripted_vector

QUERY = "small red fox"
DOCUMENTS = ["a brown bear", "the red car", "one small red fox runs", "a red fox"]
BEST_FIRST = [2, 3, 1, 0]
SCORES = {index: 1 / (1 + exp(-scripted_score(QUERY, text))) for index, text in enumerate(DOCUMENTS)}
PATHS = ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"]


@pytest.fixture
def server(make_server: Any, pooling_models: Any) -> Any:
    return make_server(localllm_rerank, models=pooling_models)


def ask(server: Any, path: str = "/v1/rerank", **fields: Any) -> Any:
    body = {"query": QUERY, "documents": DOCUMENTS, **fields}
    return server.post(path, {name: value for name, value in body.items() if value is not None})


def order(results: list[dict[str, Any]]) -> list[int]:
    return [result["index"] for result in results]


@pytest.mark.parametrize("path", PATHS)
def test_one_answer_that_list_shaped_and_cohere_like_clients_read(server: Any, path: str) -> None:
    body = ask(server, path, model="reranker").json
    assert body["object"] == "list"
    assert body["model"] == "reranker"
    assert body["id"].startswith("rerank-")
    assert body["data"] == [
        {
            "object": "rerank_result",
            "document": DOCUMENTS[index],
            "relevance_score": pytest.approx(SCORES[index]),
            "index": index,
        }
        for index in BEST_FIRST
    ]
    assert body["results"] == [
        {"index": index, "relevance_score": pytest.approx(SCORES[index]), "document": {"text": DOCUMENTS[index]}}
        for index in BEST_FIRST
    ]
    n_tokens = sum(len(f"{QUERY} {text}".split()) + 2 for text in DOCUMENTS)
    assert body["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    assert body["meta"]["api_version"] == {"version": "1"}
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert body["scored_by"] == "classification_head"
    assert server.client.pool_requests == [PoolRequest(tuple(PairPrompt(QUERY, text) for text in DOCUMENTS))]


def test_cohere_v2_has_no_documents(server: Any) -> None:
    body = ask(server, "/v2/rerank", return_documents=True, top_n=2, max_tokens_per_doc=9).json
    assert sorted(body) == ["id", "meta", "results", "scored_by"]
    assert body["results"] == [
        {"index": index, "relevance_score": pytest.approx(SCORES[index])} for index in BEST_FIRST[:2]
    ]
    assert body["meta"]["api_version"] == {"version": "2"}
    (asked,) = server.client.pool_requests
    assert (asked.truncate, asked.max_document_tokens) == (True, 9)


@pytest.mark.parametrize("path", [*PATHS, "/v2/rerank"])
def test_texts_are_answered_by_a_bare_array(server: Any, path: str) -> None:
    answer = ask(server, path, documents=None, texts=DOCUMENTS, truncation_direction="Right")
    assert answer.json == [{"index": index, "score": pytest.approx(SCORES[index])} for index in BEST_FIRST]
    assert answer.headers["x-scored-by"] == "classification_head"
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": True, "truncate": False}
    assert server.post(path, body).json == [
        {"index": index, "score": scripted_score(QUERY, DOCUMENTS[index]), "text": DOCUMENTS[index]}
        for index in BEST_FIRST
    ]
    assert [asked.truncate for asked in server.client.pool_requests] == [True, False]


def test_documents_stay_out_on_demand(server: Any) -> None:
    body = ask(server, return_documents=False).json
    assert order(body["results"]) == order(body["data"]) == BEST_FIRST
    assert not any("document" in result for result in body["results"] + body["data"])


@pytest.mark.parametrize(("top_n", "n_results"), [(1, 1), (3, 3), (4, 4), (1000, 4), (None, 4)])
def test_top_n(server: Any, top_n: int | None, n_results: int) -> None:
    body = ask(server, top_n=top_n).json
    assert order(body["results"]) == order(body["data"]) == BEST_FIRST[:n_results]


def test_raw_scores_are_what_the_model_gave(server: Any) -> None:
    scores = [result["relevance_score"] for result in ask(server, raw_scores=True).json["results"]]
    assert scores == [scripted_score(QUERY, DOCUMENTS[index]) for index in BEST_FIRST]


def test_equal_documents_keep_their_order(server: Any) -> None:
    assert order(ask(server, documents=["x", "red", "y", "red", "z"]).json["results"]) == [1, 3, 0, 2, 4]


def test_documents_as_objects_go_back_as_they_came(server: Any) -> None:
    documents = [{"text": "a bear", "id": 7}, "a fox", {"text": "red fox"}]
    body = ask(server, documents=documents).json
    assert [result["document"] for result in body["results"]] == [
        {"text": "red fox"},
        {"text": "a fox"},
        {"text": "a bear", "id": 7},
    ]
    assert [result["document"] for result in body["data"]] == ["red fox", "a fox", "a bear"]


def test_rank_fields_choose_and_order_the_text(server: Any) -> None:
    documents = [{"title": "Fox", "body": "red", "year": 1990}, {"body": "only this"}, "plain"]
    ask(server, documents=documents, rank_fields=["body", "title", "year"], return_documents=False)
    ask(server, documents=documents[:1], rank_fields=["title"])
    texts = [[pair.document for pair in asked.inputs] for asked in server.client.pool_requests]
    assert texts == [["body: red\ntitle: Fox\nyear: 1990", "body: only this", "plain"], ["Fox"]]


@pytest.mark.parametrize("dialect", ["v1", "v2", "texts"])
def test_an_embedding_model_ranks_by_cosine_and_says_so(server: Any, dialect: str) -> None:
    path = "/v2/rerank" if dialect == "v2" else "/v1/rerank"
    names = {"documents": None, "texts": DOCUMENTS} if dialect == "texts" else {}
    answer = ask(server, path, model="embedder", **names)
    cosines = [
        sum(a * b for a, b in zip(scripted_vector(QUERY), scripted_vector(text), strict=True)) for text in DOCUMENTS
    ]
    wanted = sorted(range(len(cosines)), key=lambda index: (-cosines[index], index))
    results = answer.json if dialect == "texts" else answer.json["results"]
    assert order(results) == wanted
    key = "score" if dialect == "texts" else "relevance_score"
    assert [result[key] for result in results] == [pytest.approx(cosines[index], abs=1e-6) for index in wanted]
    assert (answer.headers["x-scored-by"] if dialect == "texts" else answer.json["scored_by"]) == "cosine"
    query, texts = server.client.pool_requests
    assert query.inputs == (TextPrompt(QUERY),)
    assert texts.inputs == tuple(map(TextPrompt, DOCUMENTS))
    assert query.normalize
    assert texts.normalize
    n_tokens = sum(len(text.split()) + 2 for text in [QUERY, *DOCUMENTS])
    if dialect == "v1":
        assert answer.json["usage"]["prompt_tokens"] == n_tokens


def test_a_chat_model_is_refused(server: Any) -> None:
    answer = ask(server, model="chat")
    assert (answer.status, answer.json["error"]["code"]) == (400, "model_unsupported")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": None}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"documents": ["a", None]}, "documents[1]"),
        ({"documents": ["a", ["b"]]}, "documents[1]"),
        ({"documents": ["a", {}]}, "documents[1]"),
        ({"documents": ["a", {"text": ""}]}, "documents[1]"),
        ({"documents": [{"text": 1}, {"text": ["b"]}]}, "documents[1].text"),
        ({"documents": [{"text": "a"}], "rank_fields": ["title"]}, "documents[0]"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"rank_fields": []}, "rank_fields"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"raw_scores": 1}, "raw_scores"),
        ({"relevant_spans": {"max": 1}}, "relevant_spans"),
        ({"truncation_direction": "left"}, "truncation_direction"),
        ({"texts": ["a"]}, "texts"),
        ({"documents": None, "texts": ["a", ""]}, "texts[1]"),
        ({"documents": None, "texts": ["a", {"text": "b"}]}, "texts[1]"),
        ({"query": "q" * 4096, "documents": ["a"] * 1025}, "query"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_bad_fields_are_refused_by_path(server: Any, path: str, fields: dict[str, Any], param: str) -> None:
    answer = ask(server, path, **fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert server.client.pool_requests == []


def test_fields_that_change_nothing_are_ignored(server: Any) -> None:
    assert ask(server, max_chunks_per_doc=10, priority=3, truncation_direction="right", user="me").status == 200


def test_a_long_document_is_refused_or_cut_and_told_of(server: Any) -> None:
    server.client.info = replace(server.client.info, context_length=8)
    refused = ask(server)
    error = refused.json["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "context_length_exceeded", "documents")
    cut = ask(server, truncate=True).json
    assert cut["meta"]["warnings"] == ["Documents that were cut to fit: 2."]
    assert ask(server, "/v2/rerank").json["meta"]["warnings"] == cut["meta"]["warnings"]
    assert "warnings" not in ask(server, documents=["a"]).json["meta"]


@pytest.mark.parametrize(
    ("query", "texts", "param"), [("a b c d e f g", ["x"], "query"), ("x", ["a b c d e f g"], "texts")]
)
def test_by_cosine_the_error_names_what_is_too_long(server: Any, query: str, texts: list[str], param: str) -> None:
    server.client.info = replace(server.client.info, context_length=8)
    body = {"model": "embedder", "query": query, "texts": texts, "truncate": False}
    assert server.post("/rerank", body).json["error"]["param"] == param


def test_a_query_is_never_cut(server: Any) -> None:
    server.client.info = replace(server.client.info, context_length=8)
    answer = ask(server, model="embedder", query="a b c d e f g", truncate=True)
    assert (answer.status, answer.json["error"]["param"]) == (400, "query")


def test_errors_of_the_model_have_their_status(server: Any) -> None:
    server.client.answers.append(WorkerCrashedError("it died"))
    assert ask(server).status == 502
    assert ask(server).status == 200


@pytest.mark.parametrize("model", ["reranker", "embedder"])
def test_a_client_that_leaves_frees_the_model(server: Any, leave_midway: Any, model: str) -> None:
    async def scenario() -> None:
        body = {"query": QUERY, "documents": DOCUMENTS * 3, "model": model}
        task = asyncio.create_task(server.request("/v1/rerank", body, leave=leave_midway(server.client)))
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()
        assert (server.client.n_open, server.models.n_acquired) == (0, 0)

    asyncio.run(scenario())
