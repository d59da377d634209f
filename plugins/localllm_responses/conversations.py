"""``/v1/conversations``: items that many responses add to, each after the other."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import caller_of, json_in_pieces, read_json
from localllm.openai import body_pieces
from localllm.openai.responses import (
    InputItems,
    Item,
    item_list,
    new_item_id,
    parse_change,
    parse_conversation,
    parse_more_items,
    parse_page,
    with_ids,
)

from .conversation_book import ConversationBook
from .desk import Desk


class ConversationEndpoints:
    """The endpoints with their view of the server."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        """Begin a conversation, with items where the body brings some."""
        body = parse_conversation(await read_json(request))
        items = await self._with_ids(request, body.items)
        return JSONResponse(await self._book(request).create(items, body.metadata))

    async def get(self, request: Request) -> Response:
        """Answer with a conversation."""
        return JSONResponse(await self._book(request).get(_conversation(request)))

    async def change(self, request: Request) -> Response:
        """Replace a conversation's metadata."""
        body = parse_change(await read_json(request))
        async with self._adding(request):
            return JSONResponse(await self._book(request).change(_conversation(request), body.metadata))

    async def delete(self, request: Request) -> Response:
        """Forget a conversation with its items."""
        identity = _conversation(request)
        async with self._adding(request):
            await self._book(request).delete(identity)
        return JSONResponse({"id": identity, "object": "conversation.deleted", "deleted": True})

    async def add_items(self, request: Request) -> Response:
        """Put items at a conversation's end, and answer with them."""
        body = parse_more_items(await read_json(request))
        items = await self._with_ids(request, body.items)
        async with self._adding(request):
            await self._book(request).add(_conversation(request), items)
        return json_in_pieces(body_pieces(item_list(items)))

    async def list_items(self, request: Request) -> Response:
        """Answer with a page of a conversation's items, the newest first unless asked otherwise."""
        query = parse_page(request.query_params)
        return json_in_pieces(body_pieces(await self._book(request).page(_conversation(request), query)))

    async def get_item(self, request: Request) -> Response:
        """Answer with one item."""
        item = await self._book(request).item(_conversation(request), request.path_params["item_id"])
        return JSONResponse(item)

    async def delete_item(self, request: Request) -> Response:
        """Forget one item, and answer with the conversation."""
        identity, item_id = _conversation(request), request.path_params["item_id"]
        return JSONResponse(await self._book(request).delete_item(identity, item_id))

    async def _with_ids(self, request: Request, given: InputItems) -> tuple[Item, ...]:
        resolved = await self._desk.shelf(request).responses.resolve(given.items, param="items")
        return with_ids(resolved, lambda kind, _: new_item_id(kind))

    def _adding(self, request: Request) -> AbstractAsyncContextManager[None]:
        return self._desk.turns.adding(caller_of(request), _conversation(request))

    def _book(self, request: Request) -> ConversationBook:
        return self._desk.conversations(request)


def _conversation(request: Request) -> str:
    return str(request.path_params["conversation_id"])
