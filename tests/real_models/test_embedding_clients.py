"""Embeddings and rerank through the clients that people use, against a real port with the bundled models."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from openai import AsyncOpenAI, OpenAI

from tests.real_models.conftest import ROOT
from tests.real_models.numpy_encoder import NumpyEncoder, WordPiece

pytestmark = [pytest.mark.real_model, pytest.mark.process]

EMBEDDER = "localllm-demo-embed"
RERANKER = "localllm-demo-rerank"
SENTENCES = ["The cat sleeps on the sofa.", "A kitten is sleeping on the couch.", "The stock market fell sharply."]
QUERY = "What is the capital of France?"
FULL = "the little fox sleeps " * 102  # 510 tokens, and one at each end
DOCUMENTS = ["Berlin is the capital of Germany.", "Bananas are yellow.", "Paris is the capital of France."]


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


@pytest.fixture
def connections() -> Iterator[httpx.Client]:
    """Connections that are closed after the test: these clients leave theirs to the garbage collector."""
    with httpx.Client(timeout=50) as connections:
        yield connections


def post(server: Any, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=50)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_related_sentences_are_nearer(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=SENTENCES)
    cat, kitten, market = (item.embedding for item in answer.data)
    assert cosine(cat, kitten) > cosine(cat, market) + 0.1
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15


def test_floats_and_base64_are_the_same_vectors(client: OpenAI, server: Any) -> None:
    floats = client.embeddings.create(model=EMBEDDER, input=SENTENCES[0], encoding_format="float")
    body = post(server, "/v1/embeddings", {"model": EMBEDDER, "input": SENTENCES[0], "encoding_format": "base64"})
    data = base64.b64decode(body["data"][0]["embedding"])
    assert floats.data[0].embedding == pytest.approx(struct.unpack(f"<{len(data) // 4}f", data), abs=1e-7)
    assert math.fsum(x * x for x in floats.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_the_async_client(server: Any) -> None:
    async def run() -> list[float]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            answers = await asyncio.gather(
                *(client.embeddings.create(model=EMBEDDER, input=text) for text in (*SENTENCES, SENTENCES[0]))
            )
            return [cosine(answers[0].data[0].embedding, answer.data[0].embedding) for answer in answers]

    same = asyncio.run(run())
    assert same[3] > 0.9999 > same[1] > same[2]


@pytest.mark.parametrize(
    "text",
    [
        "sun",
        "Crème brûlée, déjà vu",
        "東京は日本の首都です",
        "party 🎉 time 👩‍👩‍👧",
        FULL,
    ],
)
def test_vectors_are_those_of_an_independent_forward_pass_alone_and_in_a_batch(client: OpenAI, text: str) -> None:
    model = ROOT / "models" / "embedding" / f"{EMBEDDER}.gguf"
    expected = NumpyEncoder(model).vector(WordPiece(model).text(text), "mean")
    alone = client.embeddings.create(model=EMBEDDER, input=text).data[0].embedding
    batch = client.embeddings.create(model=EMBEDDER, input=[*SENTENCES, text, *SENTENCES]).data[3].embedding
    assert cosine(alone, expected.tolist()) > 0.9999
    assert cosine(batch, expected.tolist()) > 0.9999


def test_dimensions_are_cut_and_scaled_to_length_one(client: OpenAI) -> None:
    whole = client.embeddings.create(model=EMBEDDER, input=SENTENCES[0]).data[0].embedding
    part = client.embeddings.create(model=EMBEDDER, input=SENTENCES[0], dimensions=32).data[0].embedding
    assert len(part) == 32
    assert part == pytest.approx([x / math.sqrt(sum(y * y for y in whole[:32])) for x in whole[:32]], abs=1e-5)
    with pytest.raises(openai.BadRequestError, match=str(len(whole))) as caught:
        client.embeddings.create(model=EMBEDDER, input="x", dimensions=len(whole) + 1)
    assert caught.value.param == "dimensions"


def test_two_thousand_texts_in_one_request_keep_their_order(client: OpenAI) -> None:
    texts = [f"number {index % 7} and {index % 11}" for index in range(2048)]
    answer = client.embeddings.create(model=EMBEDDER, input=texts)
    assert len(answer.data) == 2048
    # 77 different texts: each vector must be that of its own text
    assert cosine(answer.data[3].embedding, answer.data[3 + 77 * 20].embedding) > 0.9999
    assert cosine(answer.data[3].embedding, answer.data[4].embedding) < 0.9999


def test_a_text_that_is_too_long_is_refused_with_both_counts_or_cut(client: OpenAI, server: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="512") as caught:
        client.embeddings.create(model=EMBEDDER, input=["short", "word " * 600])
    assert caught.value.code == "context_length_exceeded"
    body = post(server, "/v1/embeddings", {"model": EMBEDDER, "input": "word " * 600, "truncate": True})
    assert body["usage"]["prompt_tokens"] == 512


def test_langchain(server: Any, connections: httpx.Client) -> None:
    embeddings = OpenAIEmbeddings(
        model=EMBEDDER,
        base_url=server.base_url,
        api_key="none",  # type: ignore[arg-type]
        http_client=connections,
        check_embedding_ctx_length=False,  # else it sends the token ids of another vocabulary
    )
    cat, kitten, market = embeddings.embed_documents(SENTENCES)
    query = embeddings.embed_query("Where does the cat sleep?")
    assert cosine(cat, kitten) > cosine(cat, market)
    assert cosine(query, cat) > cosine(query, market)


def test_a_chat_model_is_loaded_a_second_time_to_embed(client: OpenAI) -> None:
    vectors = client.embeddings.create(model="localllm-demo", input=SENTENCES)
    assert len(vectors.data[0].embedding) == 192
    said = client.chat.completions.create(
        model="localllm-demo", temperature=0, messages=[{"role": "user", "content": QUERY}]
    )
    assert said.choices[0].message.content == "The capital of France is Paris."


def test_a_reranker_gives_no_vectors_and_names_who_does(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=EMBEDDER):
        client.embeddings.create(model=RERANKER, input="x")


# --- rerank ----------------------------------------------------------------------------------------------------------


def test_the_right_document_comes_first(server: Any) -> None:
    body = post(server, "/v1/rerank", {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS})
    assert body["results"][0]["index"] == 2
    scores = [row["relevance_score"] for row in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert 1 >= scores[0] > 0.5 > scores[-1] >= 0
    assert body["scored_by"] == "classification_head"
    assert body["data"][0]["document"] == DOCUMENTS[2]


def test_an_embedding_model_ranks_by_cosine(server: Any) -> None:
    body = post(server, "/v1/rerank", {"model": EMBEDDER, "query": SENTENCES[0], "documents": SENTENCES[1:]})
    assert body["scored_by"] == "cosine"
    assert body["results"][0]["index"] == 0


def test_the_reranker_is_the_default(server: Any) -> None:
    assert post(server, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})["model"] == RERANKER
    assert post(server, "/v1/embeddings", {"input": "x"})["model"] == EMBEDDER


def test_cohere_v1(server: Any, connections: httpx.Client) -> None:
    client = cohere.Client(api_key="none", base_url=server.url, httpx_client=connections)
    answer = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, top_n=2)
    assert answer.results[0].index == 2
    assert len(answer.results) == 2


def test_cohere_v2(server: Any, connections: httpx.Client) -> None:
    client = cohere.ClientV2(api_key="none", base_url=server.url, httpx_client=connections)
    answer = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)
    assert answer.results[0].index == 2
    assert all(0 <= result.relevance_score <= 1 for result in answer.results)


def test_text_embeddings_inference(server: Any) -> None:
    rows = post(server, "/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True})
    assert rows[0]["index"] == 2
    assert rows[0]["text"] == DOCUMENTS[2]
    assert rows[0]["score"] > rows[1]["score"]
