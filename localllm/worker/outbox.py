"""Events on their way to the server: one frame per engine step, or fewer when the pipe is slower than the steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from localllm.contract.wire import Batch, WorkerEvent
from localllm.transport.codec import encode_from_worker
from localllm.transport.framing import pack_frame

MAX_WAITING_EVENTS = 16_384
"""So many events may wait; then :meth:`Outbox.put` blocks, and with it the step loop. The server always reads (a slow
client is its own matter there), so this bounds memory only while the server is stopped or swamped."""

MAX_EVENTS_PER_FRAME = 2_048

SMALL_FRAME_BYTES = 4_096
"""A pipe that polls as writable takes so many bytes at once (POSIX: PIPE_BUF; a socket takes more)."""


class Outbox:
    """Collects events and writes them as ``Batch`` frames.

    The step thread writes by itself what is small and goes out at once: to wake another thread for it takes a core from
    the decode that begins meanwhile. All else is written by a thread of its own (:meth:`run`). ``is_writable`` tells
    whether a write of ``SMALL_FRAME_BYTES`` would return at once; without it everything goes through the thread.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        is_writable: Callable[[], bool] | None = None,
        max_waiting: int = MAX_WAITING_EVENTS,
    ) -> None:
        self._write = write
        self._is_writable = is_writable
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._events: list[tuple[str, WorkerEvent]] = []
        self._prefilled_tokens = 0
        self._writing = False

    def put(self, events: Sequence[tuple[str, WorkerEvent]], prefilled_tokens: int = 0) -> None:
        """Queue what one step brought; blocks while too much waits. Called from any thread."""
        if not events and not prefilled_tokens:
            return
        with self._changed:
            if not self._writing and not self._waiting and self._written_at_once(events, prefilled_tokens):
                return
            while len(self._events) >= self._max_waiting:
                self._changed.wait()
            self._events.extend(events)
            self._prefilled_tokens += prefilled_tokens
            self._changed.notify_all()

    def _written_at_once(self, events: Sequence[tuple[str, WorkerEvent]], prefilled_tokens: int) -> bool:
        if self._is_writable is None or len(events) > MAX_EVENTS_PER_FRAME or not self._is_writable():
            return False
        frame = pack_frame(encode_from_worker(Batch(tuple(events), prefilled_tokens)))
        if len(frame) > SMALL_FRAME_BYTES:
            return False
        self._write(frame)
        return True

    def run(self) -> None:
        """Write frames for ever (output thread)."""
        while True:
            self._write(pack_frame(encode_from_worker(self._next_batch())))

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything is written; return False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._writing and not self._waiting, timeout_seconds)

    @property
    def _waiting(self) -> bool:
        return bool(self._events or self._prefilled_tokens)

    def _next_batch(self) -> Batch:
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            while not self._waiting:
                self._changed.wait()
            events, self._events = self._events[:MAX_EVENTS_PER_FRAME], self._events[MAX_EVENTS_PER_FRAME:]
            batch = Batch(tuple(events), self._prefilled_tokens)
            self._prefilled_tokens = 0
            self._writing = True
            self._changed.notify_all()
            return batch
