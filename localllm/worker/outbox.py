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


class Outbox:
    """Collects events and writes them as ``Batch`` frames from a thread of its own."""

    def __init__(self, write: Callable[[bytes], None], *, max_waiting: int = MAX_WAITING_EVENTS) -> None:
        self._write = write
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
            while len(self._events) >= self._max_waiting:
                self._changed.wait()
            self._events.extend(events)
            self._prefilled_tokens += prefilled_tokens
            self._changed.notify_all()

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
