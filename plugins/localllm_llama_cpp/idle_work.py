"""Does a piece of work once, in a thread of its own, as soon as nobody has wanted anything for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

QUIET_SECONDS = 1.0
"""A request that made the server load the model follows its ``Ready`` at once, and a conversation's next turn soon."""


class IdleWork:
    """Runs ``work`` after ``quiet_seconds`` without any request open. ``work`` may stall all other threads for long.

    ``begin`` and ``end`` are called by the step thread as requests come and go, ``start`` and ``close`` once each.
    """

    def __init__(self, work: Callable[[], None], quiet_seconds: float = QUIET_SECONDS) -> None:
        self._work = work
        self._quiet_seconds = quiet_seconds
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._open = 0
        self._over = False

    def start(self) -> None:
        """Begin to wait."""
        with self._lock:
            self._wait()

    def begin(self) -> None:
        """Note that a request has come."""
        if self._over:
            return
        with self._lock:
            self._open += 1
            self._stop_waiting()

    def end(self) -> None:
        """Note that a request is over."""
        if self._over:
            return
        with self._lock:
            self._open -= 1
            if self._open <= 0:
                self._wait()

    def close(self) -> None:
        """Never begin the work any more. What has begun goes on."""
        with self._lock:
            self._over = True
            self._stop_waiting()

    def _wait(self) -> None:
        self._stop_waiting()
        if not self._over:
            self._timer = threading.Timer(self._quiet_seconds, self._run)
            self._timer.daemon = True
            self._timer.start()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        with self._lock:
            if self._over or self._open > 0:  # a request came in this very moment
                return
            self._over = True
        self._work()
