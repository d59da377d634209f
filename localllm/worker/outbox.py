"""Events on their way to the server: a frame for each lot that is put in, or fewer when the pipe is slower."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from localllm.contract.generation import PromptLogprobs
from localllm.contract.pooling import Pooled
from localllm.contract.texts import TextResult
from localllm.contract.wire import Batch, WorkerEvent
from localllm.transport.codec import encode_from_worker
from localllm.transport.framing import pack_frame

MAX_WAITING_EVENTS = 16_384
"""So many events may wait; then :meth:`Outbox.put` blocks, and with it the step loop. The server always reads (a slow
client is its own matter there), so this bounds memory only while the server is stopped or swamped."""

MAX_WAITING_DATA_BYTES = 16 * 1024 * 1024
"""The same for vectors, tokens of texts and log-probabilities of prompts, which outweigh everything else."""

MAX_EVENTS_PER_FRAME = 2_048

MAX_DATA_BYTES_PER_FRAME = 1024 * 1024
"""Such data in a frame, unless one event has more: the server decodes a frame at a time, and others wait meanwhile."""

_LOGPROB_BYTES = 256  # it takes the server as long to decode one as so many bytes of vectors
_TOKEN_BYTES = 16  # likewise for a token id, or a token's spelling

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
        max_waiting_data_bytes: int = MAX_WAITING_DATA_BYTES,
    ) -> None:
        self._write = write
        self._is_writable = is_writable
        self._max_waiting = max_waiting
        self._max_waiting_data_bytes = max_waiting_data_bytes
        self._changed = threading.Condition()
        self._events: list[tuple[str, WorkerEvent]] = []
        self._data_bytes = 0  # of heavy data among the events
        self._prefilled_tokens = 0
        self._writing = False

    def put(self, events: Sequence[tuple[str, WorkerEvent]], prefilled_tokens: int = 0) -> None:
        """Queue what one step brought; blocks while too much waits. Called from any thread."""
        if not events and not prefilled_tokens:
            return
        with self._changed:
            if not self._writing and not self._waiting and self._written_at_once(events, prefilled_tokens):
                return
            while len(self._events) >= self._max_waiting or self._data_bytes >= self._max_waiting_data_bytes:
                self._changed.wait()
            self._events.extend(events)
            self._data_bytes += sum(map(_data_bytes, events))
            self._prefilled_tokens += prefilled_tokens
            self._changed.notify_all()

    def _written_at_once(self, events: Sequence[tuple[str, WorkerEvent]], prefilled_tokens: int) -> bool:
        if self._is_writable is None or len(events) > MAX_EVENTS_PER_FRAME or not self._is_writable():
            return False
        if sum(map(_data_bytes, events)) > SMALL_FRAME_BYTES:  # not worth encoding
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
            n_events = self._n_for_one_frame()
            events, self._events = self._events[:n_events], self._events[n_events:]
            self._data_bytes -= sum(map(_data_bytes, events))
            batch = Batch(tuple(events), self._prefilled_tokens)
            self._prefilled_tokens = 0
            self._writing = True
            self._changed.notify_all()
            return batch

    def _n_for_one_frame(self) -> int:
        if self._data_bytes <= MAX_DATA_BYTES_PER_FRAME:
            return MAX_EVENTS_PER_FRAME
        data_bytes = 0
        for index, event in enumerate(self._events[:MAX_EVENTS_PER_FRAME]):
            data_bytes += _data_bytes(event)
            if data_bytes > MAX_DATA_BYTES_PER_FRAME:
                return max(1, index)
        return MAX_EVENTS_PER_FRAME


def _data_bytes(event: tuple[str, WorkerEvent]) -> int:
    heavy = event[1]
    if type(heavy) is Pooled:
        return len(heavy.data)
    if type(heavy) is PromptLogprobs:
        return _LOGPROB_BYTES * sum(1 + len(token.top) for token in heavy.tokens)
    if type(heavy) is TextResult:
        return len(heavy.text) + _TOKEN_BYTES * (len(heavy.tokens) + len(heavy.pieces))
    return 0
