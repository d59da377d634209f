"""Responses to one conversation come one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ConversationTurns:
    """Who may go on with a conversation. ``adding`` is held while items are appended to any. Event loop only."""

    def __init__(self) -> None:
        self.adding = asyncio.Lock()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._n_waiting: dict[tuple[str, str], int] = {}

    @asynccontextmanager
    async def of(self, owner: str, conversation_id: str) -> AsyncIterator[None]:
        """Wait for those who came before, and let others wait inside of the block."""
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
