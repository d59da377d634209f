"""What is kept of conversations: their items in order, which endpoints and responses add to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from localllm import InvalidRequestError, Record, SessionStore
from localllm.openai.responses import (
    ConversationNotFoundError,
    Item,
    ItemNotFoundError,
    PageQuery,
    conversation_fields,
    item_list,
    new_conversation_id,
)

from .book import ITEM_KIND, MAX_READ_BYTES

KIND: Final = "conversation"
MAX_READ: Final = 4096
_STEP: Final = 32


class ConversationBook:
    """The conversations of one owner. Whoever adds to one holds ``ConversationTurns.adding`` meanwhile.

    ``param`` is the field of the request that names the conversation.
    """

    def __init__(
        self,
        store: SessionStore,
        owner: str,
        *,
        param: str = "conversation_id",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._owner = owner
        self._param = param
        self._clock = clock

    async def create(self, items: Sequence[Item], metadata: Mapping[str, str]) -> dict[str, Any]:
        """Begin a conversation; the items have their ids."""
        identity, now = new_conversation_id(), self._clock()
        head = Record(KIND, identity, {"metadata": dict(metadata), "next": len(items)}, now)
        await self._store.put_records(self._owner, [head, *_item_records(identity, items, 0, now)])
        return _shown(head)

    async def get(self, identity: str) -> dict[str, Any]:
        """Return a conversation's object. Raises ``ConversationNotFoundError``."""
        return _shown(await self._find(identity))

    async def change(self, identity: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Replace the metadata. Raises ``ConversationNotFoundError``."""
        head = await self._find(identity)
        changed = Record(KIND, identity, {**head.body, "metadata": dict(metadata)}, head.created_at)
        await self._store.put_records(self._owner, [changed])
        return _shown(changed)

    async def delete(self, identity: str) -> None:
        """Forget a conversation with its items. Raises ``ConversationNotFoundError``."""
        if not await self._store.delete_record(self._owner, KIND, identity):
            raise ConversationNotFoundError(identity, param=self._param)

    async def records_to_add(self, identity: str, items: Sequence[Item]) -> list[Record]:
        """Return what is to be kept so that the items stand at the end. Raises ``ConversationNotFoundError``."""
        head = await self._find(identity)
        start = head.body["next"]
        grown = Record(KIND, identity, {**head.body, "next": start + len(items)}, head.created_at)
        return [grown, *_item_records(identity, items, start, self._clock())]

    async def add(self, identity: str, items: Sequence[Item]) -> None:
        """Put items at the end. Raises ``ConversationNotFoundError``."""
        await self._store.put_records(self._owner, await self.records_to_add(identity, items))

    async def items(self, identity: str, *, may_cut: bool) -> tuple[Item, ...]:
        """Return the items, oldest first: the last 4,096, or 8 MiB.

        Where there are more, they are left out if that is allowed (``may_cut``), and else refused.
        Raises ``ConversationNotFoundError`` and ``InvalidRequestError``.
        """
        await self._find(identity)
        records, has_more = await self._read(identity, limit=MAX_READ, newest_first=True)
        if has_more and not may_cut:
            message = (
                f"Conversation {identity!r} has more than the {MAX_READ} items, or {MAX_READ_BYTES} bytes, that are "
                "read: set truncation to auto to go on without the oldest."
            )
            raise InvalidRequestError(message, param=self._param)
        return tuple(record.body for record in reversed(records))

    async def page(self, identity: str, query: PageQuery) -> dict[str, Any]:
        """Return one page of the items, a shorter one where they are larger than 8 MiB.

        Raises ``ConversationNotFoundError`` and ``ItemNotFoundError``.
        """
        await self._find(identity)
        after = None if query.after is None else (await self._item(identity, query.after, "after")).position
        records, has_more = await self._read(
            identity, limit=query.limit, after=after, newest_first=query.order == "desc"
        )
        return item_list([record.body for record in records], has_more=has_more)

    async def item(self, identity: str, item_id: str) -> Item:
        """Return one item. Raises ``ConversationNotFoundError`` and ``ItemNotFoundError``."""
        await self._find(identity)
        return (await self._item(identity, item_id, "item_id")).body

    async def delete_item(self, identity: str, item_id: str) -> dict[str, Any]:
        """Forget one item and return the conversation. Raises as :meth:`item` does."""
        head = await self._find(identity)
        await self._item(identity, item_id, "item_id")
        await self._store.delete_record(self._owner, ITEM_KIND, item_id)
        return _shown(head)

    async def _read(
        self, identity: str, *, limit: int, after: int | None = None, newest_first: bool
    ) -> tuple[list[Record], bool]:
        """Return records, and whether there are more than ``limit``, or than 8 MiB of them; the first is always there.

        They are read in steps, because the store counts records and not their bytes.
        """
        records: list[Record] = []
        n_bytes = 0
        while True:
            n_wanted = min(_STEP, limit + 1 - len(records))
            step = await self._store.list_records(
                self._owner, ITEM_KIND, group=identity, limit=n_wanted, after=after, newest_first=newest_first
            )
            for record in step:
                n_bytes += len(orjson.dumps(record.body))
                if records and (len(records) == limit or n_bytes > MAX_READ_BYTES):
                    return records, True
                records.append(record)
            if len(step) < n_wanted:
                return records, False
            after = step[-1].position

    async def _find(self, identity: str) -> Record:
        head = await self._store.get_record(self._owner, KIND, identity)
        if head is None:
            raise ConversationNotFoundError(identity, param=self._param)
        return head

    async def _item(self, identity: str, item_id: str, param: str) -> Record:
        record = await self._store.get_record(self._owner, ITEM_KIND, item_id)
        if record is None or record.group != identity:
            raise ItemNotFoundError(item_id, param=param)
        return record


def _item_records(identity: str, items: Sequence[Item], start: int, now: float) -> list[Record]:
    return [
        Record(ITEM_KIND, item["id"], item, now, group=identity, position=position)
        for position, item in enumerate(items, start)
    ]


def _shown(head: Record) -> dict[str, Any]:
    return conversation_fields(head.id, head.created_at, head.body["metadata"])
