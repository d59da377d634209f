"""Notices a worker that owes answers and gives no sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls ``on_silence`` once when nothing was heard for ``timeout_seconds``. Used on one event loop.

    One timer that is moved lazily: a sign of life costs one clock reading. When the time is over it looks a second
    time a moment later, because the silence may be our own (a stopped or swamped server has not read its pipes yet).
    """

    def __init__(self, timeout_seconds: float, on_silence: Callable[[], None]) -> None:
        self._timeout = timeout_seconds
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._suspected = False

    def start(self) -> None:
        """Begin to wait for signs of life."""
        self.reset()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._look)

    def reset(self) -> None:
        """Note a sign of life."""
        self._heard_at = self._loop.time()
        self._suspected = False

    def stop(self) -> None:
        """Nothing is owed any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        remaining = self._heard_at + self._timeout - self._loop.time()
        if remaining <= 0:
            if self._suspected:
                self._timer = None
                self._on_silence()
                return
            self._suspected = True
            remaining = min(1.0, self._timeout / 4)
        self._timer = self._loop.call_later(remaining, self._look)
