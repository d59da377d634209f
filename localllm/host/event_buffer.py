"""The events of one generation that its reader has not taken yet: bounded, and merged when the reader lags."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import ChoiceFinished, Chunk, GenerateEvent

STREAM_BYTES = 256 * 1024
"""About a quarter of a million characters, or 250 tokens with 20 alternatives each, that a reader may be behind."""

_MERGE_AT_EVENTS = 128
_EVENT_BYTES = 64
_LOGPROB_BYTES = 48


class EventBuffer:
    """One reader, one writer, one event loop. A reader that lags gets longer chunks; the text stays the same."""

    def __init__(self, max_bytes: int = STREAM_BYTES) -> None:
        self._max_bytes = max_bytes
        self._events: deque[GenerateEvent] = deque()
        self._bytes = 0
        self._error: LocalLLMError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, event: GenerateEvent) -> bool:
        """Add an event; return False, with nothing added, when it would not fit."""
        cost = _cost(event)
        if self._bytes + cost > self._max_bytes:
            self._merge()
            if self._bytes + cost > self._max_bytes:
                return False
        elif len(self._events) >= _MERGE_AT_EVENTS and len(self._events) % _MERGE_AT_EVENTS == 0:
            self._merge()
        self._events.append(event)
        self._bytes += cost
        self._wake()
        return True

    def fail(self, error: LocalLLMError, *, drop: bool = False) -> None:
        """End the stream by an error, which comes after what is buffered unless ``drop`` is set."""
        if drop:
            self._events.clear()
            self._bytes = 0
        self._error = error
        self._wake()

    async def next(self) -> GenerateEvent:
        """Wait for the next event and return it, or raise the error that ended the stream."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        self._bytes -= _cost(event)
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _merge(self) -> None:
        self._events = deque(merge_chunks(self._events))
        self._bytes = sum(map(_cost, self._events))


def merge_chunks(events: Iterable[GenerateEvent]) -> list[GenerateEvent]:
    """Return the same answers in fewer events: each choice's chunks up to its end become one.

    The order between two choices means nothing and may change; each choice's own order is kept.
    """
    merged: list[GenerateEvent | list[Chunk]] = []
    runs: dict[int, list[Chunk]] = {}
    for event in events:
        if isinstance(event, Chunk):
            run = runs.get(event.choice)
            if run is None:
                run = runs[event.choice] = []
                merged.append(run)
            run.append(event)
        else:
            if isinstance(event, ChoiceFinished):
                runs.pop(event.choice, None)
            merged.append(event)
    return [_join(item) if isinstance(item, list) else item for item in merged]


def _join(run: list[Chunk]) -> Chunk:
    if len(run) == 1:
        return run[0]
    return Chunk(
        run[0].choice,
        "".join(chunk.text for chunk in run),
        sum(chunk.tokens for chunk in run),
        tuple(item for chunk in run for item in chunk.logprobs),
    )


def _cost(event: GenerateEvent) -> int:
    if type(event) is not Chunk:
        return _EVENT_BYTES
    cost = _EVENT_BYTES + len(event.text)
    for item in event.logprobs:
        cost += _LOGPROB_BYTES * (1 + len(item.top))
    return cost
