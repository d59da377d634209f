"""Handles embeddings requests: parse, pool, and write the vectors while the client reads them."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from localllm import (
    Mode,
    ModelKind,
    PluginContext,
    Pooled,
    PoolFinished,
    json_in_pieces,
    race_disconnect,
    read_model_body,
    stream_pooling,
)
from localllm.openai import EmbeddingRequest, embedding_pieces, parse_embedding


@dataclass(frozen=True, slots=True)
class _Vectors:
    """All vectors of one request, as little-endian float32: a fifth of what their JSON takes."""

    in_order: list[bytes]
    finished: PoolFinished


class EmbeddingsEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def handle(self, request: Request) -> Response:
        """Answer with one JSON object. It is written once all vectors are there, when nothing can fail any more."""
        spec, body = await read_model_body(request, self._context, Mode.POOL, ModelKind.EMBEDDING)
        wanted = parse_embedding(body)
        vectors = await race_disconnect(request, self._collect(request, spec.id, wanted))
        return json_in_pieces(embedding_pieces(spec.id, vectors.in_order, vectors.finished, wanted.encoding_format))

    async def _collect(self, request: Request, model: str, wanted: EmbeddingRequest) -> _Vectors:
        pool = wanted.pool_request()
        vectors, finished = [b""] * len(pool.inputs), PoolFinished(0)
        events = stream_pooling(request, self._context, model, pool, purpose=ModelKind.EMBEDDING)
        async with aclosing(events):
            async for event in events:
                match event:
                    case Pooled():
                        for index, vector in event.vectors():
                            vectors[index] = vector
                    case PoolFinished():
                        finished = event
        return _Vectors(vectors, finished)
