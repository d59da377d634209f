"""Responses to one conversation come one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class ConversationTurns:
    """Who may go on with a conversation, and who may change it. Event loop only."""

    def __init__(self) -> None:
        self._answering = _Locks()
        self._adding = _Locks()

    def of(self, owner: str, conversation_id: str) -> AbstractAsyncContextManager[None]:
        """Return the turn of one response: its block waits for those who came before, and lets others wait."""
        return self._answering.hold(owner, conversation_id)

    def adding(self, owner: str, conversation_id: str) -> AbstractAsyncContextManager[None]:
        """Return what is held, for a moment, by whoever reads and writes where a conversation's items end.

        Nothing else is kept under it: what has nothing in common a store may commit at once.
        """
        return self._adding.hold(owner, conversation_id)


class _Locks:
    """A lock for each conversation that somebody holds or waits for."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._n_waiting: dict[tuple[str, str], int] = {}

    @asynccontextmanager
    async def hold(self, owner: str, conversation_id: str) -> AsyncIterator[None]:
        key = owner, conversation_id
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._n_waiting[key] = self._n_waiting.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._n_waiting[key] -= 1
            if not self._n_waiting[key]:
                del self._n_waiting[key], self._locks[key]
