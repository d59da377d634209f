"""Handles chat requests: parse, generate, word the answer."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from localllm import (
    EventStream,
    Mode,
    PluginContext,
    __version__,
    json_in_pieces,
    race_disconnect,
    read_model_body,
    stream_generation,
)
from localllm.openai import ChatShape, body_pieces, new_reply, parse_chat, response_chunks, whole_response

from .settings import ChatSettings


class ChatEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._settings: ChatSettings = context.config

    async def handle(self, request: Request) -> Response:
        """Answer with one JSON object, or with a stream of server-sent events where ``stream`` is true."""
        spec, body = await read_model_body(request, self._context, Mode.GENERATE)
        wanted = parse_chat(body)
        generate = wanted.generate_request(spec.rules.system_prompt)
        shape = ChatShape(
            new_reply("chatcmpl", spec, __version__),
            logprobs=wanted.logprobs,
            prompt_logprobs=wanted.prompt_logprobs,
            calls=wanted.call_form,
            reasoning=self._settings.reasoning_field if wanted.shows_reasoning else None,
        )
        events = stream_generation(request, self._context, spec.id, generate, session=wanted.session)
        if wanted.stream:
            chunks = response_chunks(
                shape,
                events,
                n_choices=wanted.n,
                include_usage=wanted.include_usage,
                timings_per_token=wanted.timings_per_token,
                clock=self._context.clock,
            )
            return EventStream(chunks, done=True)
        answer = await race_disconnect(request, whole_response(shape, events, n_choices=wanted.n))
        return json_in_pieces(body_pieces(answer))
