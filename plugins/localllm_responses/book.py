"""What is kept of responses: each with its own input and output, and the id of the one that it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from localllm import InvalidRequestError, Record, SessionStore, UnavailableError
from localllm.openai.responses import (
    UNFINISHED,
    Body,
    Item,
    ItemNotFoundError,
    ItemPlace,
    PreviousResponseNotFoundError,
    error_fields,
    is_reference,
    place_of,
)

KIND: Final = "response"
ITEM_KIND: Final = "conversation_item"
MAX_CHAIN: Final = 1024
MAX_READ_BYTES: Final = 8 * 1024 * 1024
_NOWHERE: Final = ItemPlace("", "input", 0)


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
            if turns and (len(turns) >= MAX_CHAIN or n_bytes > MAX_READ_BYTES):
                if may_cut:
                    break
                raise _too_long(response_id)
            turns.append(turn)
            at = found.previous
        return tuple(item for turn in reversed(turns) for item in turn)

    async def resolve(self, items: Sequence[Item], *, param: str = "input") -> tuple[Item, ...]:
        """Return the items with those in place that they refer to, 8 MiB at most: an item may be named many times.

        Raises ``ItemNotFoundError`` and ``InvalidRequestError``.
        """
        found = await self._find_items({item["id"] for item in items if is_reference(item)}, param)
        resolved: list[Item] = []
        n_bytes = 0
        for item in items:
            if is_reference(item):
                item, size = found[item["id"]]
                n_bytes += size
                if n_bytes > MAX_READ_BYTES:
                    raise _too_large(param)
            resolved.append(item)
        return tuple(resolved)

    async def _find_items(self, identities: Collection[str], param: str) -> dict[str, tuple[Item, int]]:
        """Return items with their sizes in bytes. Each response is read once, and only one is held at a time."""
        found: dict[str, tuple[Item, int]] = {}
        opened_id, opened = "", None
        n_bytes = 0
        for place, identity in sorted((place_of(one) or _NOWHERE, one) for one in identities):
            if place.response_id != opened_id:
                opened_id, opened = place.response_id, await self.find(place.response_id)
            item = await self._loose_item(identity) if opened is None else _item_at(opened, place, identity)
            if item is None:
                raise ItemNotFoundError(identity, param=param)
            found[identity] = item, len(orjson.dumps(item))
            n_bytes += found[identity][1]
            if n_bytes > MAX_READ_BYTES:
                raise _too_large(param)
        return found

    async def _loose_item(self, identity: str) -> Item | None:
        """Return an item that a conversation has, though its response may be gone."""
        record = await self._store.get_record(self._owner, ITEM_KIND, identity)
        return None if record is None else record.body


def _item_at(found: StoredResponse, place: ItemPlace, identity: str) -> Item | None:
    items = found.input if place.side == "input" else found.body["output"]
    item: Item | None = items[place.position] if place.position < len(items) else None
    return item if item is not None and item["id"] == identity else None


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
        f"What went before {response_id!r} is longer than the {MAX_CHAIN} responses, or {MAX_READ_BYTES} bytes, that "
        "are read: set truncation to auto to go on without the oldest."
    )
    return InvalidRequestError(message, param="previous_response_id")


def _too_large(param: str) -> InvalidRequestError:
    message = f"What {param} refers to is larger than {MAX_READ_BYTES} bytes: refer to fewer items."
    return InvalidRequestError(message, param=param)
