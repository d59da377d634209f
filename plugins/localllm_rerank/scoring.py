"""Scores documents: by the model's classification head where it has one, else by the cosine of vectors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from operator import mul
from struct import unpack

from localllm import (
    PairPrompt,
    Pooled,
    PoolEvent,
    PoolFinished,
    PoolingModel,
    PoolRequest,
    TextPrompt,
)
from localllm.openai import RerankCall, Scores


async def score(pooler: PoolingModel, call: RerankCall) -> Scores:
    """Return one number for each of the call's texts. Raises what ``PoolingModel.stream`` does."""
    return await (_by_head(pooler, call) if pooler.info.kind == "rank" else _by_cosine(pooler, call))


async def _by_head(pooler: PoolingModel, call: RerankCall) -> Scores:
    pool = PoolRequest(
        tuple(PairPrompt(call.query, text) for text in call.texts),
        truncate=call.truncate,
        max_document_tokens=call.max_document_tokens,
    )
    values = [0.0] * len(call.texts)

    def note(index: int, data: bytes) -> None:
        (values[index],) = unpack("<f", data)

    done = await _read(pooler.stream(pool, param=call.texts_param), note)
    return Scores(
        model=pooler.model_id,
        scored_by="classification_head",
        values=values,
        scale=pooler.info.scale,
        prompt_tokens=done.prompt_tokens,
        truncated=sorted(done.truncated),
    )


async def _by_cosine(pooler: PoolingModel, call: RerankCall) -> Scores:
    """Pool the query first: then each document's vector is a number as soon as it is there, and none is kept.

    Vectors have length 1, so that the cosine is their dot product.
    """
    floats = f"<{pooler.info.dimensions}f"
    query: tuple[float, ...] = ()
    values = [0.0] * len(call.texts)

    def note_query(_index: int, data: bytes) -> None:
        nonlocal query
        query = unpack(floats, data)

    def note(index: int, data: bytes) -> None:
        values[index] = max(-1.0, min(1.0, sum(map(mul, query, unpack(floats, data)))))

    asked = PoolRequest((TextPrompt(call.query),))  # a query is never cut, as for pairs
    first = await _read(pooler.stream(asked, param="query"), note_query)
    texts = PoolRequest(
        tuple(map(TextPrompt, call.texts)), truncate=call.truncate, max_document_tokens=call.max_document_tokens
    )
    second = await _read(pooler.stream(texts, param=call.texts_param), note)
    return Scores(
        model=pooler.model_id,
        scored_by="cosine",
        values=values,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        truncated=sorted(second.truncated),
    )


async def _read(events: AsyncGenerator[PoolEvent, None], note: Callable[[int, bytes], None]) -> PoolFinished:
    """Hand each vector or score to ``note`` and return what ends them."""
    finished = PoolFinished(0)
    async with aclosing(events):
        async for event in events:
            match event:
                case Pooled():
                    for index, data in event.vectors():
                        note(index, data)
                case PoolFinished():
                    finished = event
    return finished
