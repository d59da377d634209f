"""Inputs become tokens slice by slice, or an error that names the field, the input and both counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    LocalLLMError,
    ModelUnsupportedError,
)
from localllm.contract.generation import GenerateRequest, TextPrompt, TokenPrompt
from localllm.contract.model import Mode
from localllm.contract.pooling import PairPrompt, PoolInput, PoolRequest
from localllm.contract.wire import Submit
from localllm.engine.pool_loop import PreparedPool
from localllm.testing.decoders import load_fake
from localllm.testing.poolers import FakePoolingModel, load_fake_pooler
from localllm.worker.intake import prepare
from localllm.worker.pool_intake import SLICE_CHARACTERS, prepare_pool

RANK: dict[str, Any] = {"kind": "rank"}


def model(**settings: Any) -> FakePoolingModel:
    return load_fake_pooler(LoadRequest("m", None, Mode.POOL, {"context_length": 20, **settings}))


def slices(request: PoolRequest, **settings: Any) -> list[PreparedPool | None]:
    fake = model(**settings)
    assert fake.info.pooling is not None
    return list(prepare_pool(Submit("r1", request), fake, fake.info.pooling, queued_at=3.5))


def intake(*inputs: PoolInput, settings: dict[str, Any] | None = None, **fields: Any) -> PreparedPool:
    *pauses, prepared = slices(PoolRequest(inputs, **fields), **(settings or {}))
    assert pauses == [None] * len(pauses)
    assert prepared is not None
    return prepared


def refused(*inputs: PoolInput, settings: dict[str, Any] | None = None, **fields: Any) -> LocalLLMError:
    with pytest.raises(LocalLLMError) as caught:
        intake(*inputs, settings=settings, **fields)
    return caught.value


def tokens_of(prepared: PreparedPool) -> list[list[int]]:
    return [list(text) for text in prepared.texts]


def test_texts_and_tokens_are_encoded_and_the_rest_goes_with_them() -> None:
    prepared = intake(TextPrompt("hé"), TokenPrompt((5, 6)), dimensions=4, normalize=False, owner="key")
    assert tokens_of(prepared) == [model().encoder.encode_text("hé"), [5, 6]]
    assert (prepared.request_id, prepared.owner, prepared.queued_at) == ("r1", "key", 3.5)
    assert (prepared.dimensions, prepared.normalize, prepared.truncated) == (4, False, ())


def test_tokens_are_held_in_four_bytes_each() -> None:
    assert {(type(text).__name__, text.itemsize) for text in intake(TextPrompt("abc")).texts} == {("array", 4)}


def test_pairs_are_encoded_as_the_model_wants_them_and_scores_have_no_dimensions() -> None:
    prepared = intake(PairPrompt("q", "doc"), settings=RANK, dimensions=256)
    assert tokens_of(prepared) == [model(**RANK).encoder.encode_pair("q", "doc")]
    assert prepared.dimensions is None


def test_a_text_as_long_as_the_context_fits_and_one_token_more_does_not() -> None:
    assert len(intake(TextPrompt("x" * 18)).texts[0]) == 20
    for long in (TextPrompt("x" * 19), TokenPrompt((1,) * 21)):
        error = refused(TextPrompt("short"), long)
        assert isinstance(error, ContextLengthExceededError)
        assert error.detail == {"n_prompt_tokens": 21, "n_ctx": 20}
        assert error.param == "input"
        assert "20 tokens, but input 1 has 21" in error.message


def test_with_truncate_texts_are_cut_by_the_encoder_and_tokens_at_their_end() -> None:
    numbers = tuple(range(30))
    prepared = intake(TextPrompt("x" * 50), TextPrompt("y" * 18), TokenPrompt(numbers), truncate=True)
    assert tokens_of(prepared) == [
        model().encoder.encode_text("x" * 50, max_tokens=20),
        model().encoder.encode_text("y" * 18),
        list(numbers[:20]),
    ]
    assert prepared.truncated == (0, 2)


def test_a_pair_that_is_too_long_names_its_document_and_with_truncate_loses_its_end() -> None:
    long = PairPrompt("query", "d" * 50)
    error = refused(PairPrompt("q", "d"), long, settings=RANK)
    assert isinstance(error, ContextLengthExceededError)
    assert (error.param, error.detail) == ("documents", {"n_prompt_tokens": 58, "n_ctx": 20})
    assert "document 1 with its query has 58" in error.message
    prepared = intake(PairPrompt("q", "d"), long, settings=RANK, truncate=True)
    assert tokens_of(prepared)[1] == model(**RANK).encoder.encode_pair("query", "d" * 12)
    assert prepared.truncated == (1,)


def test_a_query_that_leaves_no_room_for_any_document_is_refused_even_with_truncate() -> None:
    error = refused(PairPrompt("q" * 40, "doc"), settings=RANK, truncate=True)
    assert isinstance(error, ContextLengthExceededError)
    assert (error.param, error.detail) == ("query", {"n_prompt_tokens": 43, "n_ctx": 20})
    assert "the query" in error.message


def test_a_limit_for_documents_cuts_them_and_says_which() -> None:
    pairs = (PairPrompt("q", "dd"), PairPrompt("q", "ddd"), PairPrompt("q", "d" * 60))
    prepared = intake(*pairs, settings=RANK, max_document_tokens=2)
    encode = model(**RANK).encoder.encode_pair
    assert tokens_of(prepared) == [encode("q", "dd")] * 3
    assert prepared.truncated == (1, 2)


def test_texts_are_cut_to_the_wanted_tokens_too_and_named() -> None:
    encode = model().encoder.encode_text
    around = len(encode(""))
    prepared = intake(TextPrompt("abc"), TextPrompt("abcdefgh"), max_document_tokens=3)
    assert tokens_of(prepared) == [encode("abc"), encode("abcdefgh", max_tokens=3 + around)]
    assert prepared.truncated == (1,)


@pytest.mark.parametrize("one", [TextPrompt(""), TokenPrompt(())], ids=["text", "tokens"])
def test_an_empty_input_is_refused_by_its_place(one: PoolInput) -> None:
    error = refused(TextPrompt("a"), one)
    assert isinstance(error, InvalidRequestError)
    assert (error.param, "Input 1 is empty" in error.message) == ("input", True)


def test_no_input_at_all_is_refused() -> None:
    error = refused()
    assert (type(error), error.param) == (InvalidRequestError, "input")


def test_a_document_may_be_empty() -> None:
    assert len(intake(PairPrompt("q", ""), settings=RANK).texts[0]) == 4


@pytest.mark.parametrize("token", [-1, 261, 2**40])
def test_a_token_outside_the_vocabulary_is_refused_by_number(token: int) -> None:
    error = refused(TokenPrompt((1, token)))
    assert (type(error), error.param) == (InvalidRequestError, "input")
    assert f"Token id {token} " in error.message


@pytest.mark.parametrize("dimensions", [9, 0, -1])
def test_dimensions_that_the_model_does_not_have_are_refused(dimensions: int) -> None:
    error = refused(TextPrompt("a"), dimensions=dimensions)
    assert (type(error), error.param) == (InvalidRequestError, "dimensions")
    assert f"dimensions is {dimensions}" in error.message
    assert "1 to 8" in error.message


def test_a_model_refuses_what_is_for_another_kind_of_model() -> None:
    for error, hint in (
        (refused(PairPrompt("q", "d")), "Name a reranker"),
        (refused(TextPrompt("a"), settings=RANK), "Name an embedding model"),
        (refused(TokenPrompt((1,)), settings=RANK), "Name an embedding model"),
    ):
        assert isinstance(error, ModelUnsupportedError)
        assert hint in error.message


def test_a_request_of_the_other_kind_is_refused_by_either_worker() -> None:
    pooler = model()
    assert pooler.info.pooling is not None
    generate, pool = GenerateRequest(TextPrompt("a")), PoolRequest((TextPrompt("a"),))
    with pytest.raises(ModelUnsupportedError, match="loaded to pool"):
        list(prepare_pool(Submit("r1", generate), pooler, pooler.info.pooling, queued_at=0.0))
    with pytest.raises(ModelUnsupportedError, match="loaded to write"):
        prepare(Submit("r1", pool), load_fake(LoadRequest("m", None, Mode.GENERATE)), queued_at=0.0)


def test_a_large_request_pauses_often() -> None:
    request = PoolRequest(tuple(TextPrompt("x" * 968) for _ in range(2048)))
    *pauses, _ = slices(request, context_length=2000)
    n_per_slice = -(-SLICE_CHARACTERS // 1000)
    assert len(pauses) == 2048 // n_per_slice
    many_short = PoolRequest(tuple(TokenPrompt((1,)) for _ in range(2048)))
    assert len(slices(many_short)) > 5


@given(st.lists(st.text(max_size=30), min_size=1, max_size=10), st.booleans(), st.integers(3, 40))
def test_every_input_fits_or_the_first_that_does_not_is_named(texts: list[str], truncate: bool, n_ctx: int) -> None:
    lengths = [len(text.encode(errors="surrogatepass")) + 2 if text else 0 for text in texts]
    inputs = [TextPrompt(text) for text in texts]
    bad = [index for index, length in enumerate(lengths) if not length or (length > n_ctx and not truncate)]
    if bad:
        error = refused(*inputs, settings={"context_length": n_ctx}, truncate=truncate)
        assert f"nput {bad[0]} " in error.message
    else:
        prepared = intake(*inputs, settings={"context_length": n_ctx}, truncate=truncate)
        assert [len(text) for text in prepared.texts] == [min(length, n_ctx) for length in lengths]
        assert list(prepared.truncated) == [index for index, length in enumerate(lengths) if length > n_ctx]
