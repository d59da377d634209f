"""Which texts are pooled together next: full batches that all requests share, and that are fair between them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localllm.contract.pooling import PoolCapabilities


@dataclass(frozen=True, slots=True)
class Part:
    """What one request has in a batch: some of its texts, by their index."""

    request_id: str
    indices: tuple[int, ...]


@dataclass(slots=True)
class _Waiting:
    """A request's texts that are in no batch yet, as (tokens, -index), shortest first."""

    request_id: str
    owner: str
    texts: list[tuple[int, int]]


class _Room:
    """What is left of the batch that is being filled."""

    def __init__(self, tokens: int, texts: int) -> None:
        self._tokens = tokens
        self._texts = texts

    @property
    def is_full(self) -> bool:
        return self._tokens <= 0 or not self._texts

    def take_longest(self, waiting: _Waiting) -> list[int]:
        """Take the request's longest text whatever its size, then what fits beside it."""
        n_tokens, minus_index = waiting.texts.pop()
        self._tokens -= n_tokens
        self._texts -= 1
        return [-minus_index, *self.take_fitting(waiting)]

    def take_fitting(self, waiting: _Waiting) -> list[int]:
        """Take the longest text that fits, again and again."""
        taken: list[int] = []
        texts = waiting.texts
        while self._texts and (n_fitting := bisect_left(texts, (self._tokens + 1,))):
            n_tokens, minus_index = texts.pop(n_fitting - 1)
            self._tokens -= n_tokens
            self._texts -= 1
            taken.append(-minus_index)
        return taken


class PoolQueue:
    """Gives out batches of texts. Deterministic; lengths in, indices out.

    Requests lead batches in turn: first the owners take turns, then the requests of one owner among themselves. The
    batch is filled with the leader's texts, longest first and then always the longest that still fits, and what is left
    of it with those of the others, in the order in which they will lead. A text longer than ``batch_tokens`` is alone.

    So a request that fits one batch is finished when it leads for the first time, and any other leads at most
    ``1 + 2 * tokens // batch_tokens + texts // batch_texts`` times: unless it is full of texts, a batch is left with
    less room than the leader's shortest remaining text needs, so that two batches in a row hold more than
    ``batch_tokens`` of it. Between two turns of a request lie no more batches than (owners) x (its owner's requests),
    whatever sizes all those are.
    """

    def __init__(self, capabilities: PoolCapabilities) -> None:
        self._batch_tokens = capabilities.batch_tokens
        self._batch_texts = capabilities.batch_texts
        self._requests: dict[str, _Waiting] = {}
        self._owners: OrderedDict[str, OrderedDict[str, _Waiting]] = OrderedDict()  # both in the order of their turns

    @property
    def has_work(self) -> bool:
        """Whether any text waits."""
        return bool(self._requests)

    def add(self, request_id: str, lengths: Sequence[int], *, owner: str = "") -> None:
        """Queue a request of texts with these lengths in tokens: one or more, each at least 1. Ids must not repeat."""
        texts = sorted((n_tokens, -index) for index, n_tokens in enumerate(lengths))
        waiting = self._requests[request_id] = _Waiting(request_id, owner, texts)
        self._owners.setdefault(owner, OrderedDict())[request_id] = waiting

    def cancel(self, request_id: str) -> None:
        """Forget what is left of a request. Unknown ids are ignored."""
        waiting = self._requests.pop(request_id, None)
        if waiting is not None:
            requests = self._owners[waiting.owner]
            del requests[request_id]
            if not requests:
                del self._owners[waiting.owner]

    def next_batch(self) -> list[Part]:
        """Take the next batch out of the queue, the leader's part first; nothing when no text waits."""
        room = _Room(self._batch_tokens, self._batch_texts)
        parts: list[Part] = []
        leader: _Waiting | None = None
        finished: list[str] = []
        for waiting in self._in_turn():
            if leader is None:
                leader, indices = waiting, room.take_longest(waiting)
            else:
                indices = room.take_fitting(waiting)
            if indices:
                parts.append(Part(waiting.request_id, tuple(indices)))
            if not waiting.texts:
                finished.append(waiting.request_id)
            if room.is_full:
                break
        if leader is not None:
            self._owners[leader.owner].move_to_end(leader.request_id)
            self._owners.move_to_end(leader.owner)
        for request_id in finished:
            self.cancel(request_id)
        return parts

    def check(self) -> None:
        """Assert the invariants, between batches; for tests."""
        in_rings = {
            request_id: (owner, waiting) for owner, ring in self._owners.items() for request_id, waiting in ring.items()
        }
        assert in_rings.keys() == self._requests.keys(), "a request is in no ring, or in two"
        assert all(self._owners.values()), "an owner without requests has turns"
        for request_id, (owner, waiting) in in_rings.items():
            assert waiting is self._requests[request_id]
            assert (waiting.request_id, waiting.owner) == (request_id, owner)
            assert waiting.texts, "a request without texts has turns"
            assert waiting.texts == sorted(waiting.texts)
            assert len({minus_index for _, minus_index in waiting.texts}) == len(waiting.texts), "a text waits twice"

    def _in_turn(self) -> Iterator[_Waiting]:
        """Yield the requests in the order in which they will lead; nothing may change in between."""
        rings = deque(iter(ring.values()) for ring in self._owners.values())
        while rings:
            ring = rings.popleft()
            waiting = next(ring, None)
            if waiting is not None:
                yield waiting
                rings.append(ring)
