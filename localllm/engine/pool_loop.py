"""One batch of texts from end to end: choose it, pool it, and say what that brought to each request."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError
from localllm.contract.pooling import Pooled, Pooler, PoolFinished, PoolItem, PoolStarted
from localllm.contract.wire import WorkerEvent
from localllm.engine.pooling import Part, PoolQueue
from localllm.engine.step_loop import StepResult

MAX_POOLED_BYTES = 256 * 1024
"""Vectors of one request and batch beyond this go into several events, so that frames stay short and no other
request's answer waits behind a long one."""

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class PreparedPool:
    """A pooling request whose inputs are tokens already. ``queued_at`` is in seconds of the pool loop's clock.

    ``truncated`` are the indices of those that were cut. ``texts`` may be arrays, which hold tokens in 4 bytes each.
    """

    request_id: str
    texts: tuple[array[int] | tuple[int, ...], ...]
    truncated: tuple[int, ...]
    dimensions: int | None
    normalize: bool
    owner: str
    queued_at: float


@dataclass(slots=True)
class _Pooling:
    """A request in the loop, and when its first text was begun (seconds of the clock)."""

    request: PreparedPool
    prompt_tokens: int
    n_left: int
    began_at: float | None = None

    def item(self, index: int) -> PoolItem:
        request = self.request
        return PoolItem(tuple(request.texts[index]), request.dimensions, request.normalize)

    def finished(self, now: float) -> PoolFinished:
        began_at = now if self.began_at is None else self.began_at
        return PoolFinished(
            self.prompt_tokens,
            self.request.truncated,
            queue_ms=1000 * (began_at - self.request.queued_at),
            compute_ms=1000 * (now - began_at),
        )


class PoolLoop:
    """Runs a pooler for many requests at once. All methods are called from one thread, the worker's step thread.

    ``dimensions`` is the length of the model's vectors; ``clock`` gives seconds that never go backwards. An exception
    out of the pooler goes through: what it then holds is unknown, so that the worker must end.

    Events of a request, in this order: ``PoolStarted``; one or more ``Pooled``, each input in one of them;
    ``PoolFinished``.
    """

    def __init__(self, pooler: Pooler, dimensions: int, clock: Callable[[], float]) -> None:
        self._pooler = pooler
        self._dimensions = dimensions
        self._clock = clock
        self._context_length = pooler.capabilities.context_length
        self._queue = PoolQueue(pooler.capabilities)
        self._poolings: dict[str, _Pooling] = {}
        self._outbox: list[tuple[str, WorkerEvent]] = []

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do."""
        return self._queue.has_work or bool(self._outbox)

    def submit(self, request: PreparedPool) -> None:
        """Queue a request. Its events come out of the following steps, beginning with ``PoolStarted``.

        Raises ``ContextLengthExceededError`` or ``InvalidRequestError`` (no text, an empty text, id in use); the
        request is not queued then.
        """
        lengths = [len(text) for text in request.texts]
        if not lengths or not all(lengths):
            raise InvalidRequestError(
                "Nothing can be pooled without a token; give at least one text, none of it empty."
            )
        if max(lengths) > self._context_length:
            raise ContextLengthExceededError(max(lengths), self._context_length)
        if request.request_id in self._poolings:
            raise InvalidRequestError(f"Request id {request.request_id!r} is in use; ids must not repeat.")
        prompt_tokens = sum(lengths)
        self._poolings[request.request_id] = _Pooling(request, prompt_tokens, len(lengths))
        self._queue.add(request.request_id, lengths, owner=request.owner)
        self._outbox.append((request.request_id, PoolStarted(prompt_tokens)))

    def cancel(self, request_id: str) -> None:
        """Forget a request in whatever state it is; no event of it comes out after this. Unknown ids are ignored."""
        self._outbox = [event for event in self._outbox if event[0] != request_id]
        if self._poolings.pop(request_id, None) is not None:
            self._queue.cancel(request_id)

    def step(self) -> StepResult:
        """Pool one batch and return what it brought. Blocks as long as the pooler works; does nothing when idle."""
        parts = self._queue.next_batch()
        if not parts:
            return StepResult(self._take_events(), 0)
        began_at = self._clock()
        items = [self._poolings[part.request_id].item(index) for part in parts for index in part.indices]
        vectors = self._pooler.pool(items)
        self._check(items, vectors)
        self._report(parts, vectors, began_at)
        return StepResult(self._take_events(), sum([len(item.tokens) for item in items]))

    def check(self) -> None:
        """Assert the invariants, between steps; for tests, and for an idle engine."""
        self._queue.check()
        assert all(pooling.n_left for pooling in self._poolings.values())
        assert self._queue.has_work == bool(self._poolings)

    def _check(self, items: Sequence[PoolItem], vectors: Sequence[bytes]) -> None:
        """Refuse what an engine must not return: nobody could tell any more which vector is whose."""
        if len(vectors) != len(items):
            message = f"The engine returned {len(vectors)} vectors for {len(items)} texts."
            raise RuntimeError(message)
        for item, vector in zip(items, vectors, strict=True):
            n_bytes = _FLOAT_BYTES * (item.dimensions or self._dimensions)
            if len(vector) != n_bytes:
                message = f"The engine returned a vector of {len(vector)} bytes where one of {n_bytes} was asked for."
                raise RuntimeError(message)

    def _report(self, parts: Sequence[Part], vectors: Sequence[bytes], began_at: float) -> None:
        now = self._clock()
        start = 0
        for part in parts:
            pooling = self._poolings[part.request_id]
            if pooling.began_at is None:
                pooling.began_at = began_at
            end = start + len(part.indices)
            self._outbox += [(part.request_id, pooled) for pooled in _pieces(part.indices, vectors[start:end])]
            start = end
            pooling.n_left -= len(part.indices)
            if not pooling.n_left:
                self._outbox.append((part.request_id, pooling.finished(now)))
                del self._poolings[part.request_id]

    def _take_events(self) -> tuple[tuple[str, WorkerEvent], ...]:
        events, self._outbox = tuple(self._outbox), []
        return events


def _pieces(indices: tuple[int, ...], vectors: Sequence[bytes]) -> list[Pooled]:
    """Return one event, or several where the vectors, which are all of one length, are many and long."""
    size = max(1, MAX_POOLED_BYTES // len(vectors[0]))
    return [
        Pooled(indices[start : start + size], b"".join(vectors[start : start + size]))
        for start in range(0, len(indices), size)
    ]
