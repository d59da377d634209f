"""What comes out of the pool loop for one request: which events, in which order, with which vectors and times."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError
from localllm.contract.pooling import (
    PoolCapabilities,
    Pooled,
    PoolFinished,
    PoolingInfo,
    PoolItem,
    PoolStarted,
)
from localllm.contract.wire import WorkerEvent
from localllm.engine.pool_loop import MAX_POOLED_BYTES, PoolLoop, PreparedPool
from localllm.testing.fake_pooler import FakePooler, fake_vector

CAPABILITIES = PoolCapabilities(context_length=40, batch_tokens=16, batch_texts=6)
MEAN = PoolingInfo("mean", 5)


class Clock:
    """Time passes only when a batch is pooled: half a second."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self, batch: Sequence[PoolItem]) -> None:
        self.now += 0.5


def loop_of(capabilities: PoolCapabilities = CAPABILITIES, pooling: PoolingInfo = MEAN) -> tuple[PoolLoop, FakePooler]:
    clock = Clock()
    pooler = FakePooler(capabilities, pooling, before_batch=clock.tick)
    return PoolLoop(pooler, pooling.dimensions, clock), pooler


def asked(
    *texts: bytes,
    request_id: str = "r",
    truncated: tuple[int, ...] = (),
    dimensions: int | None = None,
    normalize: bool = True,
    owner: str = "",
) -> PreparedPool:
    tokens = tuple(array("i", list(text)) for text in texts)
    return PreparedPool(request_id, tokens, truncated, dimensions, normalize, owner, queued_at=99.0)


def run(loop: PoolLoop) -> list[tuple[str, WorkerEvent]]:
    events: list[tuple[str, WorkerEvent]] = []
    while loop.has_work:
        events += loop.step().events
        loop.check()
    return events


def vectors_of(events: Sequence[WorkerEvent]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, Pooled):
            for index, data in event.vectors():
                assert index not in found, "answered twice"
                found[index] = data
    return found


def expected(request: PreparedPool, pooling: PoolingInfo = MEAN) -> dict[int, bytes]:
    return {
        index: fake_vector(PoolItem(tuple(text), request.dimensions, request.normalize), pooling)
        for index, text in enumerate(request.texts)
    }


def test_a_request_from_beginning_to_end() -> None:
    loop, _ = loop_of()
    request = asked(b"a long text", b"ab", b"another one", truncated=(2,))
    loop.submit(request)
    first = loop.step()
    assert first.prefilled_tokens == 13
    assert [event for _, event in first.events[:1]] == [PoolStarted(prompt_tokens=24)]
    second = loop.step()
    assert second.prefilled_tokens == 11
    assert not loop.has_work
    events = [event for _, event in (*first.events, *second.events)]
    assert [event.indices for event in events if isinstance(event, Pooled)] == [(0, 1), (2,)]
    assert vectors_of(events) == expected(request)
    assert events[-1] == PoolFinished(24, (2,), queue_ms=1000.0, compute_ms=1000.0)


def test_dimensions_and_normalisation_go_with_each_text() -> None:
    loop, pooler = loop_of()
    short = asked(b"one", request_id="short", dimensions=2)
    raw = asked(b"two", request_id="raw", normalize=False)
    loop.submit(short)
    loop.submit(raw)
    by_request = {request_id: vectors_of([event]) for request_id, event in run(loop) if isinstance(event, Pooled)}
    assert len(pooler.batches) == 1, "they share a batch all the same"
    assert by_request == {"short": expected(short), "raw": expected(raw)}
    assert len(by_request["short"][0]) == 2 * 4


def test_scores_are_one_float_each() -> None:
    rank = PoolingInfo("rank", 1, "logit")
    loop, _ = loop_of(pooling=rank)
    request = asked(b"q d1", b"q d2")
    loop.submit(request)
    found = vectors_of([event for _, event in run(loop)])
    assert found == expected(request, rank)
    assert [len(score) for score in found.values()] == [4, 4]


def test_vectors_that_would_make_a_long_frame_go_in_several_events() -> None:
    wide = PoolingInfo("mean", 16_384)
    loop, _ = loop_of(PoolCapabilities(40, 40, 10), wide)
    request = asked(*(bytes([number]) for number in range(10)))
    loop.submit(request)
    events = [event for _, event in run(loop)]
    pooled = [event for event in events if isinstance(event, Pooled)]
    assert [len(event.indices) for event in pooled] == [4, 4, 2]
    assert all(len(event.data) <= MAX_POOLED_BYTES for event in pooled)
    assert vectors_of(events) == expected(request, wide)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (asked(), InvalidRequestError),
        (asked(b"a", b""), InvalidRequestError),
        (asked(b"x" * 41), ContextLengthExceededError),
        (asked(b"a", request_id="taken"), InvalidRequestError),
    ],
    ids=["no text", "an empty text", "too long", "id in use"],
)
def test_what_can_not_be_pooled_is_refused_and_leaves_nothing_behind(
    request_: PreparedPool, error: type[Exception]
) -> None:
    loop, _ = loop_of()
    loop.submit(asked(b"abc", request_id="taken"))
    with pytest.raises(error):
        loop.submit(request_)
    assert {request_id for request_id, _ in run(loop)} == {"taken"}


def test_no_event_of_a_request_comes_after_its_cancel() -> None:
    loop, pooler = loop_of()
    loop.submit(asked(*[b"x" * 10] * 5, request_id="gone"))
    loop.submit(asked(b"y" * 10, request_id="stays"))
    loop.step()
    loop.cancel("gone")
    loop.cancel("gone")
    loop.cancel("nobody")
    assert {request_id for request_id, _ in run(loop)} == {"stays"}
    assert len(pooler.batches) == 2
    loop.submit(asked(b"never", request_id="at once"))
    loop.cancel("at once")
    assert not loop.has_work
    assert loop.step().events == ()


@pytest.mark.parametrize(
    "vectors", [[], [bytes(20), bytes(20)], [bytes(16)], [b""]], ids=["none", "two", "too short", "empty"]
)
def test_an_engine_that_returns_other_vectors_than_it_was_asked_for_ends_the_worker(vectors: list[bytes]) -> None:
    class Wrong(FakePooler):
        def pool(self, batch: Sequence[PoolItem]) -> Sequence[bytes]:
            return vectors

    loop = PoolLoop(Wrong(CAPABILITIES, MEAN), MEAN.dimensions, Clock())
    loop.submit(asked(b"abc"))
    with pytest.raises(RuntimeError, match="The engine returned"):
        loop.step()


@dataclass(frozen=True)
class Job:
    """A request, before which step it comes, and before which its client leaves."""

    at: int
    request: PreparedPool
    cancel_at: int | None


@st.composite
def jobs(draw: st.DrawFn, number: int) -> Job:
    texts = draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12))
    request = asked(
        *texts,
        request_id=f"r{number}",
        dimensions=draw(st.none() | st.integers(1, MEAN.dimensions)),
        normalize=draw(st.booleans()),
        owner=draw(st.sampled_from(["", "key"])),
    )
    return Job(draw(st.integers(0, 6)), request, draw(st.none() | st.integers(0, 8)))


@given(st.data(), st.integers(1, 5))
def test_whatever_comes_together_each_request_gets_the_vectors_that_it_gets_alone(
    data: st.DataObject, n_jobs: int
) -> None:
    loop, pooler = loop_of()
    pending = [data.draw(jobs(number)) for number in range(n_jobs)]
    events: dict[str, list[WorkerEvent]] = {job.request.request_id: [] for job in pending}
    cancelled: set[str] = set()
    prefilled = 0
    for now in range(200):
        for job in pending:
            if job.at == now:
                loop.submit(job.request)
            if job.cancel_at == now and job.at <= now and not _is_over(events[job.request.request_id]):
                loop.cancel(job.request.request_id)
                cancelled.add(job.request.request_id)
        result = loop.step()
        loop.check()
        prefilled += result.prefilled_tokens
        for request_id, event in result.events:
            assert request_id not in cancelled
            assert not _is_over(events[request_id])
            events[request_id].append(event)
    assert not loop.has_work
    assert prefilled == sum(len(item.tokens) for batch in pooler.batches for item in batch)
    for job in pending:
        if job.request.request_id not in cancelled:
            mine = events[job.request.request_id]
            n_tokens = sum(map(len, job.request.texts))
            assert mine[0] == PoolStarted(n_tokens)
            assert vectors_of(mine) == expected(job.request)
            assert isinstance(mine[-1], PoolFinished)
            assert mine[-1].prompt_tokens == n_tokens


def _is_over(events: list[WorkerEvent]) -> bool:
    return bool(events) and isinstance(events[-1], PoolFinished)


def test_a_fake_vector_is_what_the_contract_says() -> None:
    def numbers(item: PoolItem) -> tuple[float, ...]:
        return struct.unpack(f"<{item.dimensions or 5}f", fake_vector(item, MEAN))

    raw = numbers(PoolItem((1, 2, 3), normalize=False))
    assert numbers(PoolItem((1, 2, 3), dimensions=2, normalize=False)) == raw[:2]
    assert sum(number**2 for number in numbers(PoolItem((1, 2, 3), dimensions=3))) == pytest.approx(1.0)
    assert numbers(PoolItem((1, 3, 2), normalize=False)) != raw
