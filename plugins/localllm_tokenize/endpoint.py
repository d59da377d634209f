"""Handles requests about texts: parse, ask the model's worker, word the answer. The server itself tokenises nothing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import (
    Conversion,
    Mode,
    ModelBody,
    PluginContext,
    RenderRequest,
    TextRequest,
    TokenizeRequest,
    convert_texts,
    json_in_pieces,
    race_disconnect,
    read_model_body,
)

from .answers import tokenize_pieces
from .bodies import parse_detokenize, parse_messages, parse_tokenize


class TokenizeEndpoints:
    """The endpoints with their view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def tokenize(self, request: Request) -> Response:
        """Answer with the tokens of a text, or of a conversation."""
        body = await self._read(request)
        call = parse_tokenize(body.fields, body.spec.rules.system_prompt)
        found = await self._convert(request, body, call.request)
        return json_in_pieces(
            tokenize_pieces(
                found.result,
                max_model_len=found.context_length,
                with_pieces=call.with_pieces,
                token_strs=call.token_strs,
            )
        )

    async def detokenize(self, request: Request) -> Response:
        """Answer with the text that tokens spell, under the names that both services have for it."""
        body = await self._read(request)
        found = await self._convert(request, body, parse_detokenize(body.fields).text_request())
        return JSONResponse({"content": found.result.text, "prompt": found.result.text})

    async def apply_template(self, request: Request) -> Response:
        """Answer with the prompt that the chat endpoint would make of the same body."""
        body = await self._read(request)
        prompt = parse_messages(body.fields, body.spec.rules.system_prompt)
        found = await self._convert(request, body, RenderRequest(prompt))
        return JSONResponse({"prompt": found.result.text})

    async def input_tokens(self, request: Request) -> Response:
        """Answer with how many tokens that prompt has."""
        body = await self._read(request)
        prompt = parse_messages(body.fields, body.spec.rules.system_prompt)
        found = await self._convert(request, body, TokenizeRequest(prompt))
        return JSONResponse({"object": "response.input_tokens", "input_tokens": len(found.result.tokens)})

    async def _read(self, request: Request) -> ModelBody:
        return await read_model_body(request, self._context, Mode.GENERATE)

    async def _convert(self, request: Request, body: ModelBody, asked: TextRequest) -> Conversion:
        return await race_disconnect(request, convert_texts(request, self._context, body.spec.id, asked))
