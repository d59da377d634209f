"""Shutting down without cutting anyone short: no new work, time for the old, a farewell for what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from localllm.contract.errors import UnavailableError
from localllm.server.disconnect import end_task
from localllm.server.interruption import Interruption

FAREWELL_SECONDS = 2.0
"""Time for interrupted requests to send their last event; then their connections are cut."""

RETRY_AFTER_SECONDS = 5
"""What refused clients are told: about what a restart takes."""


class Drain:
    """The open requests of one server, and whether it takes more. Event loop only."""

    def __init__(self) -> None:
        self.draining = False
        self.retry_after_seconds = RETRY_AFTER_SECONDS
        self._open: set[Interruption] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = asyncio.Event()

    @property
    def open_requests(self) -> int:
        """Requests that are being answered."""
        return len(self._open)

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Count one request as open. Raises ``UnavailableError`` out of the block when its time is over."""
        with Interruption() as interruption:
            self._open.add(interruption)
            self._idle.clear()
            try:
                yield
            finally:
                self._open.discard(interruption)
                if not self._open:
                    self._idle.set()

    def hurry(self) -> None:
        """Give open requests no more time: somebody asked twice."""
        self._hurry.set()

    async def run(self, grace_seconds: float) -> None:
        """Refuse new work, wait for the open requests, then interrupt what is left and let it say so."""
        self.draining = True
        await self._wait_for(grace_seconds, self._idle, self._hurry)
        for interruption in list(self._open):
            interruption.interrupt(
                UnavailableError("The server is shutting down.", retry_after_seconds=self.retry_after_seconds)
            )
        await self._wait_for(FAREWELL_SECONDS, self._idle)

    async def _wait_for(self, seconds: float, *events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            await end_task(wait)
