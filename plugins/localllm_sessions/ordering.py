"""Lets the turns of one session go one after the other, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from localllm import OverloadedError

MAX_WAITING: Final = 64
"""Turns that may wait for one session. They don't stand in any model's queue yet, which is bounded by itself."""

Key = tuple[str, str]
"""Owner and id: nobody waits for somebody else's session."""


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    n_users: int = 0


class TurnOrder:
    """One queue for each session that is in use. For one event loop."""

    def __init__(self) -> None:
        self._queues: dict[Key, _Queue] = {}

    @property
    def in_use(self) -> Collection[Key]:
        """The sessions that are held or waited for."""
        return self._queues.keys()

    async def take(self, key: Key) -> Callable[[], None]:
        """Wait until it is this turn's turn, and return what must be called, once, when it is over.

        Raises ``OverloadedError`` where enough of them wait already.
        """
        queue = self._queues.setdefault(key, _Queue())
        if queue.n_users > MAX_WAITING:  # one of them does not wait any more
            message = f"{MAX_WAITING} requests wait for this session already. Ask again when it has answered some."
            raise OverloadedError(message)
        queue.n_users += 1
        try:
            await queue.lock.acquire()
        except BaseException:
            self._leave(key, queue)
            raise
        return partial(self._release, key, queue)

    def _release(self, key: Key, queue: _Queue) -> None:
        queue.lock.release()
        self._leave(key, queue)

    def _leave(self, key: Key, queue: _Queue) -> None:
        queue.n_users -= 1
        if not queue.n_users:
            del self._queues[key]
