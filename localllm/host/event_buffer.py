"""The events of one request that its reader has not taken yet: bounded, and merged when the reader lags."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, GenerateEvent, PromptLogprobs
from localllm.contract.pooling import Pooled, PoolEvent
from localllm.contract.texts import TextResult

AnswerEvent = GenerateEvent | PoolEvent | TextResult

_Piece = Chunk | CallDelta

STREAM_BYTES = 256 * 1024
"""About a quarter of a million characters, or 250 tokens with 20 alternatives each, that a reader may be behind."""

_MERGE_AT_EVENTS = 128
_EVENT_BYTES = 64
_INDEX_BYTES = 32  # a small int object and its place in a tuple
_LOGPROB_BYTES = 48


def pooled_answer_bytes(n_inputs: int, dimensions: int) -> int:
    """Return a limit that the whole answer to a pooling request fits into, however it is cut into events.

    A reader of vectors has use for them only once it has them all, so that it holds them itself: what it may be behind
    is all that it asked for, and only a broken worker sends more.
    """
    return _EVENT_BYTES * 4 + n_inputs * (_EVENT_BYTES + _INDEX_BYTES + 4 * dimensions)


def scored_prompt_bytes(n_tokens: int, n_top: int) -> int:
    """Return a limit that the log-probabilities of a prompt of ``n_tokens`` fit into, however they are cut into events.

    Like vectors they are no more than what was asked for, and come as fast as a prompt is read.
    """
    return n_tokens * (_EVENT_BYTES + _LOGPROB_BYTES * (1 + n_top))


class EventBuffer:
    """One reader, one writer, one event loop. A reader that lags gets longer chunks; the text stays the same."""

    def __init__(self, max_bytes: int = STREAM_BYTES) -> None:
        self._max_bytes = max_bytes
        self._events: deque[AnswerEvent] = deque()
        self._bytes = 0
        self._error: LocalLLMError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, event: AnswerEvent) -> bool:
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

    async def next(self) -> AnswerEvent:
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


def merge_chunks(events: Iterable[AnswerEvent]) -> list[AnswerEvent]:
    """Return the same answers in fewer events: chunks of a choice become one, and so do the pieces of a call.

    The order between two choices means nothing and may change; each choice's own order is kept.
    """
    merged: list[AnswerEvent | list[_Piece]] = []
    runs: dict[int, list[_Piece]] = {}
    for event in events:
        if isinstance(event, Chunk | CallDelta):
            run = runs.get(event.choice)
            if run is None or not _goes_on(run[-1], event):
                run = runs[event.choice] = []
                merged.append(run)
            run.append(event)
        else:
            if isinstance(event, ChoiceFinished):
                runs.pop(event.choice, None)
            merged.append(event)
    return [_join(item) if isinstance(item, list) else item for item in merged]


def _goes_on(last: _Piece, event: _Piece) -> bool:
    """Whether two pieces of one choice can be one: text of the same region, or arguments of the same call."""
    if isinstance(last, Chunk):
        return isinstance(event, Chunk) and event.region == last.region
    return isinstance(event, CallDelta) and event.index == last.index and event.name is None


def _join(run: list[_Piece]) -> _Piece:
    first = run[0]
    if len(run) == 1:
        return first
    tokens = sum(piece.tokens for piece in run)
    logprobs = tuple(item for piece in run for item in piece.logprobs)
    if isinstance(first, Chunk):
        text = "".join(piece.text for piece in run if isinstance(piece, Chunk))
        return replace(first, text=text, tokens=tokens, logprobs=logprobs)
    arguments = "".join(piece.arguments for piece in run if isinstance(piece, CallDelta))
    return replace(first, arguments=arguments, tokens=tokens, logprobs=logprobs)


def _cost(event: AnswerEvent) -> int:
    if type(event) is Pooled:
        return _EVENT_BYTES + _INDEX_BYTES * len(event.indices) + len(event.data)
    if type(event) is PromptLogprobs:
        return _EVENT_BYTES + sum(_LOGPROB_BYTES * (1 + len(token.top)) for token in event.tokens)
    if type(event) is Chunk:
        cost = _EVENT_BYTES + len(event.text)
    elif type(event) is CallDelta:
        cost = _EVENT_BYTES + len(event.arguments)
    else:
        return _EVENT_BYTES
    for item in event.logprobs:
        cost += _LOGPROB_BYTES * (1 + len(item.top))
    return cost
