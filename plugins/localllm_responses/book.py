"""What is kept of responses: each with its own input and output, and the id of the one that it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from localllm import InvalidRequestError, Record, SessionStore, UnavailableError
from localllm.openai.responses import (
    UNFINISHED,
    Body,
    Item,
    ItemNotFoundError,
    PreviousResponseNotFoundError,
    error_fields,
    is_reference,
    place_of,
)

KIND: Final = "response"
ITEM_KIND: Final = "conversation_item"
MAX_CHAIN: Final = 1024
MAX_CHAIN_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """``input`` are the items of this request alone; what went before is ``previous`` and its own."""

    body: Body
    input: Sequence[Item]
    previous: str | None


class ResponseBook:
    """The responses of one owner. ``is_running`` tells whether somebody still writes a response."""

    def __init__(self, store: SessionStore, owner: str, is_running: Callable[[str], bool]) -> None:
        self._store = store
        self._owner = owner
        self._is_running = is_running

    async def find(self, response_id: str) -> StoredResponse | None:
        """Return a response, None where the owner has none with this id.

        One that was on its way in the background when the server ended has failed.
        """
        is_running = self._is_running(response_id)  # before it is read: what ends meanwhile has not failed
        record = await self._store.get_record(self._owner, KIND, response_id)
        if record is None:
            return None
        body: Body = dict(record.body["response"])
        if body["status"] in UNFINISHED and not is_running:
            error = UnavailableError("The server ended before the response was complete. Send the request again.")
            body |= {"status": "failed", "error": error_fields(error)}
        return StoredResponse(body, record.body["input"], record.body["previous"])

    async def put(self, body: Body, own: Sequence[Item]) -> None:
        """Keep a response. Raises what the store does."""
        await self._store.put_records(self._owner, [response_record(body, own)])

    async def delete(self, response_id: str) -> bool:
        """Forget a response; return whether there was one."""
        return await self._store.delete_record(self._owner, KIND, response_id)

    async def chain(self, response_id: str, *, may_cut: bool) -> tuple[Item, ...]:
        """Return the items of a response and of all before it, oldest first.

        At most 1,024 responses and 8 MiB of items are read. What is older is left out where that is allowed
        (``may_cut``), and else refused. Raises ``PreviousResponseNotFoundError`` and ``InvalidRequestError``.
        """
        turns: list[Sequence[Item]] = []
        n_bytes = 0
        at: str | None = response_id
        while at is not None:
            found = await self.find(at)
            if found is None:
                raise PreviousResponseNotFoundError(at, asked=response_id)
            if found.body["status"] in UNFINISHED:
                raise _unfinished(at)
            turn = (*found.input, *found.body["output"])
            n_bytes += len(orjson.dumps(turn))
            if turns and (len(turns) >= MAX_CHAIN or n_bytes > MAX_CHAIN_BYTES):
                if may_cut:
                    break
                raise _too_long(response_id)
            turns.append(turn)
            at = found.previous
        return tuple(item for turn in reversed(turns) for item in turn)

    async def resolve(self, items: Sequence[Item], *, param: str = "input") -> tuple[Item, ...]:
        """Return the items with those in place that they refer to. Raises ``ItemNotFoundError``."""
        resolved: list[Item] = []
        for item in items:
            if is_reference(item):
                found = await self._find_item(item["id"])
                if found is None:
                    raise ItemNotFoundError(item["id"], param=param)
                item = found
            resolved.append(item)
        return tuple(resolved)

    async def _find_item(self, identity: str) -> Item | None:
        place = place_of(identity)
        found = None if place is None else await self.find(place.response_id)
        if place is None or found is None:
            record = await self._store.get_record(self._owner, ITEM_KIND, identity)
            return None if record is None else record.body
        items = found.input if place.side == "input" else found.body["output"]
        return next((item for item in items if item["id"] == identity), None)


def response_record(body: Body, own: Sequence[Item]) -> Record:
    """Return the record of a response."""
    kept: Mapping[str, Any] = {
        "response": body,
        "input": list(own),
        "previous": body["previous_response_id"],
    }
    return Record(KIND, body["id"], kept, float(body["created_at"]))


def _unfinished(response_id: str) -> InvalidRequestError:
    message = f"Response {response_id!r} is still on its way: wait until it is completed, or cancel it."
    return InvalidRequestError(message, param="previous_response_id")


def _too_long(response_id: str) -> InvalidRequestError:
    message = (
        f"What went before {response_id!r} is longer than the {MAX_CHAIN} responses, or {MAX_CHAIN_BYTES} bytes, that "
        "are read: set truncation to auto to go on without the oldest."
    )
    return InvalidRequestError(message, param="previous_response_id")
