"""Responses that are kept: fetched, followed, cancelled and deleted by their ids."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import InvalidRequestError, json_in_pieces
from localllm.openai import body_pieces
from localllm.openai.responses import (
    Body,
    ItemNotFoundError,
    ResponseNotFoundError,
    item_list,
    parse_page,
)

from .book import StoredResponse
from .desk import Desk, Shelf


class StoredEndpoints:
    """The endpoints with their view of the server."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, request: Request) -> Response:
        """Answer with a response as it is now, or with the stream of one that is written in the background."""
        response_id = request.path_params["response_id"]
        shelf = self._desk.shelf(request)
        if request.query_params.get("stream", "false").lower() in ("true", "1"):
            return await self._follow(request, shelf, response_id)
        return json_in_pieces(body_pieces(await self._now(shelf, response_id)))

    async def delete(self, request: Request) -> Response:
        """Forget a response; one that is on its way is cancelled."""
        response_id = request.path_params["response_id"]
        shelf = self._desk.shelf(request)
        await self._desk.jobs.forget(shelf.owner, response_id)
        if not await shelf.responses.delete(response_id):
            raise ResponseNotFoundError(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """End a response that is written in the background, and answer with it. One that has ended stays as it is."""
        response_id = request.path_params["response_id"]
        shelf = self._desk.shelf(request)
        job = self._desk.jobs.running(shelf.owner, response_id)
        if job is not None:
            return json_in_pieces(body_pieces(await self._desk.jobs.cancel(job)))
        body = await self._now(shelf, response_id)
        if not body["background"]:
            message = f"Response {response_id!r} can't be cancelled: it was not created with background true."
            raise InvalidRequestError(message, param="response_id")
        return json_in_pieces(body_pieces(body))

    async def input_items(self, request: Request) -> Response:
        """Answer with a page of what a response's request brought; what went before it belongs to those before."""
        response_id = request.path_params["response_id"]
        query = parse_page(request.query_params)
        found = await self._find(self._desk.shelf(request), response_id)
        items = list(found.input) if query.order == "asc" else list(reversed(found.input))
        start = 0
        if query.after is not None:
            start = next((index for index, item in enumerate(items, 1) if item["id"] == query.after), 0)
            if not start:
                raise ItemNotFoundError(query.after, param="after")
        end = start + query.limit
        return json_in_pieces(body_pieces(item_list(items[start:end], has_more=end < len(items))))

    async def _follow(self, request: Request, shelf: Shelf, response_id: str) -> Response:
        after = _starting_after(request)
        stream = self._desk.jobs.stream_of(shelf.owner, response_id)
        if stream is None:
            await self._find(shelf, response_id)
            message = (
                f"Response {response_id!r} has no stream any more, or never had one: only those created with stream "
                "and background true have, for some time. Fetch it without stream."
            )
            raise InvalidRequestError(message, param="stream")
        return stream.answer(after)

    async def _now(self, shelf: Shelf, response_id: str) -> Body:
        """Return a response as it is now."""
        job = self._desk.jobs.running(shelf.owner, response_id)
        if job is not None:
            return job.run.body
        return (await self._find(shelf, response_id)).body

    async def _find(self, shelf: Shelf, response_id: str) -> StoredResponse:
        found = await shelf.responses.find(response_id)
        if found is None:
            raise ResponseNotFoundError(response_id)
        return found


def _starting_after(request: Request) -> int:
    text = request.query_params.get("starting_after", "")
    if not text:
        return -1
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        message = f"starting_after must be the sequence_number of an event, not {text[:40]!r}."
        raise InvalidRequestError(message, param="starting_after")
    return int(text)
