"""Handles rerank requests: parse in any dialect, score, word the answer in the same one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from localllm import ModelKind, PluginContext, borrow_pooler, json_in_pieces, race_disconnect, read_json
from localllm.openai import RerankCall, Scores, parse_rerank, rerank_pieces

from .scoring import score


class RerankEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def handle(self, request: Request) -> Response:
        """Answer with an object that Jina's, Cohere's v1 and similar clients read, or with an array for ``texts``."""
        return await self._answer(request, parse_rerank(await read_json(request)))

    async def handle_v2(self, request: Request) -> Response:
        """Answer as Cohere's v2: no documents in the results."""
        return await self._answer(request, parse_rerank(await read_json(request), version=2))

    async def _answer(self, request: Request, call: RerankCall) -> Response:
        scores = await race_disconnect(request, self._score(request, call))
        # The body of every dialect says by what documents were scored, but an array has no place for it.
        headers = {"x-scored-by": scores.scored_by} if call.dialect == "tei" else None
        return json_in_pieces(rerank_pieces(call, scores), headers=headers)

    async def _score(self, request: Request, call: RerankCall) -> Scores:
        async with borrow_pooler(request, self._context, call.model, purpose=ModelKind.RERANKER) as pooler:
            return await score(pooler, call)
