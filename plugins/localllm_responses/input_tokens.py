"""``POST /v1/responses/input_tokens``: how long the prompt of a request would be."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import ChatPrompt, Mode, TokenizeRequest, convert_texts, race_disconnect, read_model_body
from localllm.openai.responses import Item, parse_response

from .create import CreateEndpoint
from .desk import Desk
from .fitting import blaming_input


class InputTokensEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, desk: Desk, create: CreateEndpoint) -> None:
        self._desk = desk
        self._create = create

    async def handle(self, request: Request) -> Response:
        """Answer with the number of tokens, of all that went before too."""
        spec, body = await read_model_body(request, self._desk.context, Mode.GENERATE)
        asked = parse_response(body)
        asked.check()
        before: tuple[Item, ...] = ()
        if asked.previous_response_id is not None:
            shelf = self._desk.shelf(request, param="previous_response_id")
            before = await shelf.responses.chain(asked.previous_response_id, may_cut=True)
        if asked.conversation is not None:
            conversations = self._desk.conversations(request, param="conversation")
            before = await conversations.items(asked.conversation, may_cut=True)
        own = await self._create.resolve(request, asked.input)
        generate = asked.generate_request((*before, *own), spec.rules.system_prompt)
        counted = TokenizeRequest(cast(ChatPrompt, generate.prompt))
        with blaming_input():
            found = await race_disconnect(request, convert_texts(request, self._desk.context, spec.id, counted))
        return JSONResponse({"object": "response.input_tokens", "input_tokens": len(found.result.tokens)})
