"""A plugin that keeps sessions in memory, and fails as it is told to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from localllm import RegisterStore, Session, Turn, hookimpl
from localllm.testing import MemoryStore


class FaultyStore(MemoryStore):
    """Raises the errors in ``faults``, one for each write of a turn, and holds such writes at ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: deque[Exception] = deque()
        self.gate: asyncio.Event | None = None
        self.writing = asyncio.Event()

    async def create(self, owner: str, *, turns: Sequence[Turn] = (), **fields: Any) -> Session:
        await self._meet_fault()
        return await super().create(owner, turns=turns, **fields)

    async def append(self, owner: str, session_id: str, turn: Turn, *, after: int) -> Session:
        await self._meet_fault()
        return await super().append(owner, session_id, turn, after=after)

    async def _meet_fault(self) -> None:
        self.writing.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            raise self.faults.popleft()


@hookimpl
def localllm_register_stores(register: RegisterStore) -> None:
    register(FaultyStore(), name="memory")
