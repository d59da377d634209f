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
    read_json,
    stream_generation,
)
from localllm.openai import ChatShape, body_pieces, new_reply, parse_chat, response_chunks, whole_response


class ChatEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def handle(self, request: Request) -> Response:
        """Answer with one JSON object, or with a stream of server-sent events where ``stream`` is true."""
        wanted = parse_chat(await read_json(request))
        generate = wanted.generate_request()
        spec = self._context.models.resolve(wanted.model, Mode.GENERATE)
        shape = ChatShape(
            new_reply("chatcmpl", spec, __version__), logprobs=wanted.logprobs, prompt_logprobs=wanted.prompt_logprobs
        )
        events = stream_generation(request, self._context, spec.id, generate)
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
        body = await race_disconnect(request, whole_response(shape, events, n_choices=wanted.n))
        return json_in_pieces(body_pieces(body))
