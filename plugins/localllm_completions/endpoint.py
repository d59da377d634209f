"""Handles completions requests: parse, run one generation for each prompt, word the answers."""

from __future__ import annotations

from functools import partial

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
from localllm.openai import (
    CompletionShape,
    best_answers,
    body_pieces,
    merge_generations,
    new_reply,
    parse_completion,
    response_chunks,
    whole_response,
)


class CompletionsEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context

    async def handle(self, request: Request) -> Response:
        """Answer with one JSON object, or with a stream of server-sent events where ``stream`` is true."""
        spec, body = await read_model_body(request, self._context, Mode.GENERATE)
        wanted = parse_completion(body)
        generates = wanted.generate_requests()
        shape = CompletionShape(new_reply("cmpl", spec, __version__), wanted)
        events = merge_generations(
            [stream_generation(request, self._context, spec.id, generate) for generate in generates], n=wanted.drawn
        )
        n_choices = len(generates) * wanted.drawn
        if wanted.stream:
            chunks = response_chunks(
                shape,
                events,
                n_choices=n_choices,
                include_usage=wanted.include_usage,
                timings_per_token=wanted.timings_per_token,
                clock=self._context.clock,
            )
            return EventStream(chunks, done=True)
        select = partial(best_answers, n=wanted.n, drawn=wanted.drawn)
        answer = await race_disconnect(request, whole_response(shape, events, n_choices=n_choices, select=select))
        return json_in_pieces(body_pieces(answer))
