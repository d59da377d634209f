"""Handles rerank requests: parse in any dialect, score, word the answer in the same one."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from localllm import (
    Mode,
    ModelKind,
    PluginContext,
    borrow_pooler,
    json_in_pieces,
    race_disconnect,
    read_model_body,
)
from localllm.openai import RerankCall, Scores, parse_rerank, rerank_pieces

from .scoring import score


class RerankEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def handle(self, request: Request) -> Response:
        """Answer with an object that Jina's, Cohere's v1 and similar clients read, or with an array for ``texts``."""
        return await self._answer(request, version=1)

    async def handle_v2(self, request: Request) -> Response:
        """Answer as Cohere's v2: no documents in the results."""
        return await self._answer(request, version=2)

    async def _answer(self, request: Request, *, version: Literal[1, 2]) -> Response:
        spec, body = await read_model_body(request, self._context, Mode.POOL, ModelKind.RERANKER)
        call = parse_rerank(body, version=version)
        scores = await race_disconnect(request, self._score(request, spec.id, call))
        # The body of every dialect says by what documents were scored, but an array has no place for it.
        headers = {"x-scored-by": scores.scored_by} if call.dialect == "tei" else None
        return json_in_pieces(rerank_pieces(call, scores), headers=headers)

    async def _score(self, request: Request, model: str, call: RerankCall) -> Scores:
        async with borrow_pooler(request, self._context, model, purpose=ModelKind.RERANKER) as pooler:
            return await score(pooler, call)
