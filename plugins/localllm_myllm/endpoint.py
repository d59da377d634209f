"""Handles MyLLM's requests: parse, generate or pool, word the answer as its clients expect it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from struct import unpack
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import (
    ContextLengthExceededError,
    EventStream,
    Mode,
    ModelBody,
    ModelKind,
    ModelNotFoundError,
    PluginContext,
    Pooled,
    PoolRequest,
    race_disconnect,
    read_model_body,
    stream_generation,
    stream_pooling,
)

from .answers import (
    Events,
    events_in_their_words,
    in_their_words,
    message_events,
    model_entry,
    text_events,
    whole_message,
    whole_text,
)
from .bodies import (
    Wanted,
    flatten_chat,
    flatten_embeddings,
    flatten_generate,
    parse_conversation,
    parse_generate,
    parse_text,
)


class MyLLMEndpoints:
    """The endpoints with their view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def generate(self, request: Request) -> Response:
        """Go on with a text: a stream of events, or with ``"stream": false`` one object."""
        body = await self._read(request, Mode.GENERATE, flatten_generate)
        wanted = parse_generate(body.fields)
        events = self._events(request, body, wanted)
        if wanted.stream:
            return EventStream(text_events(events))
        return JSONResponse(await race_disconnect(request, whole_text(events)))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, and keep it as a session where a plugin keeps those."""
        body = await self._read(request, Mode.GENERATE, flatten_chat)
        wanted = parse_conversation(body.fields, body.spec.rules.system_prompt)
        events = self._events(request, body, wanted)
        if wanted.stream:
            return EventStream(message_events(events))
        return JSONResponse(await race_disconnect(request, whole_message(events)))

    async def embeddings(self, request: Request) -> Response:
        """Turn one text into one vector. A chat model does, too."""
        body = await self._read(request, Mode.POOL, flatten_embeddings, ModelKind.EMBEDDING)
        pool = parse_text(body.fields)
        vector = await race_disconnect(request, self._vector(request, body, pool))
        return JSONResponse({"embedding": vector, "model": body.spec.id})

    async def models(self, request: Request) -> Response:
        """List all models."""
        models = self._context.models
        return JSONResponse({"models": [model_entry(spec, models.loaded(spec.id)) for spec in models.list_specs()]})

    async def _read(
        self,
        request: Request,
        mode: Mode,
        flatten: Callable[[dict[str, Any]], dict[str, Any]],
        purpose: ModelKind | None = None,
    ) -> ModelBody:
        fields: dict[str, Any] = {}

        def reshape(body: dict[str, Any]) -> dict[str, Any]:
            fields.update(flatten(body))
            return fields

        try:
            return await read_model_body(request, self._context, mode, purpose, reshape=reshape)
        except ModelNotFoundError as error:
            raise in_their_words(error, fields["model"], self._context.models) from error

    def _events(self, request: Request, body: ModelBody, wanted: Wanted) -> Events:
        context, spec = self._context, body.spec
        events = stream_generation(request, context, spec.id, wanted.generate, session=wanted.session)
        return events_in_their_words(events, spec, context.models)

    async def _vector(self, request: Request, body: ModelBody, pool: PoolRequest) -> list[float]:
        context, spec, vector = self._context, body.spec, b""
        try:
            events = stream_pooling(request, context, spec.id, pool, purpose=ModelKind.EMBEDDING)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Pooled):
                        ((_, vector),) = event.vectors()
        except (ModelNotFoundError, ContextLengthExceededError) as error:
            raise in_their_words(error, spec.id, context.models) from error
        return list(unpack(f"<{len(vector) // 4}f", vector))
