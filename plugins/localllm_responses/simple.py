"""``POST /v1/responses`` in the simple shape: one text in, one message out."""

from __future__ import annotations

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import (
    Chunk,
    GenerateRequest,
    Mode,
    ModelSpec,
    PluginContext,
    race_disconnect,
    read_model_body,
    stream_generation,
)
from localllm.openai.responses import parse_simple, simple_body

from .settings import ResponsesSettings


class SimpleEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._settings: ResponsesSettings = context.config

    async def handle(self, request: Request) -> Response:
        """Answer with the model's name and what it said."""
        spec, body = await read_model_body(request, self._context, Mode.GENERATE)
        generate = parse_simple(body).generate_request(
            spec.rules.system_prompt, temperature=self._settings.simple_temperature
        )
        text = await race_disconnect(request, self._answer(request, spec, generate))
        return JSONResponse(simple_body(spec.id, text))

    async def _answer(self, request: Request, spec: ModelSpec, generate: GenerateRequest) -> str:
        async with aclosing(stream_generation(request, self._context, spec.id, generate)) as events:
            chunks = [event async for event in events if isinstance(event, Chunk)]
        return "".join(chunk.text for chunk in chunks if chunk.region == "content")
