"""A lagging reader gets the same answer in fewer pieces, and is cut off only when it is too far behind."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import SlowReaderError, UnavailableError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from localllm.host.event_buffer import EventBuffer, merge_chunks

CHUNKS = st.builds(
    Chunk,
    st.integers(0, 2),
    st.text(max_size=3),
    st.integers(0, 2),
    st.lists(st.builds(TokenLogprob, st.text(max_size=1), st.binary(max_size=1), st.just(-1.0)), max_size=2).map(tuple),
)


def answers(events: list[GenerateEvent]) -> dict[int, tuple[str, int, list[TokenLogprob], bool]]:
    """Return what a client has at the end, per choice."""
    found: dict[int, tuple[str, int, list[TokenLogprob], bool]] = {}
    for event in events:
        if isinstance(event, Chunk):
            text, tokens, logprobs, ended = found.get(event.choice, ("", 0, [], False))
            assert not ended, "text came after the end of its choice"
            found[event.choice] = (text + event.text, tokens + event.tokens, [*logprobs, *event.logprobs], False)
        elif isinstance(event, ChoiceFinished):
            found[event.choice] = (*found.get(event.choice, ("", 0, [], False))[:3], True)
    return found


@given(st.lists(CHUNKS, max_size=30), st.sets(st.integers(0, 2)))
def test_merging_changes_no_answer_and_leaves_one_chunk_per_choice(chunks: list[Chunk], ended: set[int]) -> None:
    events: list[GenerateEvent] = [Started(3), *chunks]
    events += [ChoiceFinished(choice, "stop") for choice in sorted(ended)]
    merged = merge_chunks(events)
    assert answers(merged) == answers(events)
    assert merged[0] == Started(3)
    assert sum(isinstance(event, Chunk) for event in merged) == len({chunk.choice for chunk in chunks})


def test_a_reader_that_keeps_up_gets_each_event_as_it_was_sent() -> None:
    async def scenario() -> list[GenerateEvent]:
        buffer = EventBuffer()
        received = []
        for number in range(300):
            assert buffer.push(Chunk(0, str(number), 1))
            received.append(await buffer.next())
        return received

    assert asyncio.run(scenario()) == [Chunk(0, str(number), 1) for number in range(300)]


def test_a_reader_that_lags_gets_the_whole_text_in_few_events() -> None:
    async def scenario() -> list[GenerateEvent]:
        buffer = EventBuffer()
        for number in range(5000):
            assert buffer.push(Chunk(number % 2, "ab", 1))
        assert buffer.push(Finished(Usage(1, 5000), Timings(0, 0, 0)))
        received: list[GenerateEvent] = []
        while not received or not isinstance(received[-1], Finished):
            received.append(await buffer.next())
        return received

    received = asyncio.run(scenario())
    assert len(received) < 200
    assert answers(received) == {choice: ("ab" * 2500, 2500, [], False) for choice in (0, 1)}


def test_what_piles_up_is_bounded_in_bytes() -> None:
    async def scenario() -> int:
        buffer = EventBuffer(max_bytes=10_000)
        pushed = 0
        while buffer.push(Chunk(0, "x" * 10, 1)):
            pushed += 1
            assert pushed < 2_000, "it never refused"
        return pushed

    assert 900 <= asyncio.run(scenario()) <= 1_000


def test_reading_makes_room_again() -> None:
    async def scenario() -> None:
        buffer = EventBuffer(max_bytes=1_000)
        for _ in range(100):
            assert buffer.push(Chunk(0, "x" * 800, 1))
            assert await buffer.next() == Chunk(0, "x" * 800, 1)

    asyncio.run(scenario())


def test_an_error_comes_after_what_was_buffered_or_at_once_when_told_so() -> None:
    async def scenario() -> None:
        polite, abrupt = EventBuffer(), EventBuffer()
        for buffer in (polite, abrupt):
            buffer.push(Chunk(0, "a", 1))
        polite.fail(UnavailableError("gone"))
        abrupt.fail(SlowReaderError("too slow"), drop=True)
        assert await polite.next() == Chunk(0, "a", 1)
        with pytest.raises(UnavailableError):
            await polite.next()
        with pytest.raises(SlowReaderError):
            await abrupt.next()

    asyncio.run(scenario())


def test_a_waiting_reader_is_woken_by_an_event_and_by_an_error() -> None:
    async def scenario() -> None:
        buffer = EventBuffer()
        reader = asyncio.create_task(buffer.next())
        await asyncio.sleep(0)
        buffer.push(Started(1))
        assert await reader == Started(1)
        reader = asyncio.create_task(buffer.next())
        await asyncio.sleep(0)
        buffer.fail(UnavailableError("gone"))
        with pytest.raises(UnavailableError):
            await reader

    asyncio.run(scenario())
