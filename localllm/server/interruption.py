"""Ending a running handler from outside, with an error of one's own choice: a departure, a deadline, a shutdown."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Interruption:
    """A ``with`` block that :meth:`interrupt` leaves with the given exception.

    Like ``asyncio.timeout``, but whoever holds the object decides when, and with what. The task is cancelled at its
    current ``await``, so ``finally`` blocks run; the cancellation turns into the exception at the end of the block.
    A cancellation that comes from anywhere else passes through untouched. Event loop only.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: Exception | None = None

    def interrupt(self, error: Exception) -> None:
        """Leave the block with ``error``. The first call counts; none does outside of the block."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()

    def __enter__(self) -> Interruption:
        self._task = asyncio.current_task()
        if self._task is None:
            message = "an Interruption needs a running task"
            raise RuntimeError(message)
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None or self._error is None:
            return
        if task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._error from None
