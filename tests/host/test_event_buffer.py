"""A lagging reader gets the same answer in fewer pieces, and is cut off only when it is too far behind."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import SlowReaderError, UnavailableError
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    PromptLogprobs,
    PromptToken,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.contract.pooling import Pooled, PoolFinished, PoolStarted
from localllm.host.event_buffer import EventBuffer, merge_chunks, pooled_answer_bytes, scored_prompt_bytes

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


PIECES = st.one_of(
    st.builds(
        Chunk, st.integers(0, 1), st.text(max_size=2), st.just(1), region=st.sampled_from(["content", "reasoning"])
    ),
    st.builds(
        CallDelta,
        st.integers(0, 1),
        st.integers(0, 2),
        st.sampled_from([None, None, "f"]),
        st.text(max_size=2),
        st.just(1),
    ),
)


@given(st.lists(PIECES, max_size=30))
def test_thoughts_text_and_calls_keep_their_order_and_stay_apart(pieces: list[GenerateEvent]) -> None:
    def told(events: list[GenerateEvent], choice: int) -> tuple[list[tuple[str, str]], int]:
        letters: list[tuple[str, str]] = []
        n_tokens = 0
        for event in events:
            if isinstance(event, Chunk) and event.choice == choice:
                letters += [(event.region, char) for char in event.text]
                n_tokens += event.tokens
            elif isinstance(event, CallDelta) and event.choice == choice:
                letters += [("name", f"{event.index} {event.name}")] * (event.name is not None)
                letters += [(f"call {event.index}", char) for char in event.arguments]
                n_tokens += event.tokens
        return letters, n_tokens

    merged = merge_chunks(pieces)
    for choice in range(2):
        assert told(merged, choice) == told(pieces, choice)


def test_a_long_thought_and_a_long_call_become_one_event_each() -> None:
    pieces = (
        [Chunk(0, "a", 1, region="reasoning")] * 3
        + [CallDelta(0, 0, "f", "{", 1)]
        + [CallDelta(0, 0, None, "}", 1)] * 2
    )
    assert merge_chunks(pieces) == [Chunk(0, "aaa", 3, region="reasoning"), CallDelta(0, 0, "f", "{}}", 3)]


def test_the_scores_of_a_whole_prompt_fit_into_the_room_that_is_made_for_them() -> None:
    top = tuple(TokenAlternative("a", b"a", -1.0, 1) for _ in range(5))
    tokens = [PromptToken(1, "a", b"a", -1.0, top) for _ in range(100)]
    buffer = EventBuffer(scored_prompt_bytes(100, 5))
    assert all(buffer.push(PromptLogprobs((token,))) for token in tokens)
    assert not buffer.push(PromptLogprobs(tuple(tokens)))


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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 20))
def test_the_vectors_that_were_asked_for_fit_unread_however_they_are_cut(parts: list[int], dimensions: int) -> None:
    """``parts`` are how many vectors each event brings."""

    async def scenario() -> None:
        buffer = EventBuffer(pooled_answer_bytes(sum(parts), dimensions))
        assert buffer.push(PoolStarted(1))
        for n_vectors in parts:
            assert buffer.push(Pooled(tuple(range(n_vectors)), bytes(4 * dimensions * n_vectors)))
        assert buffer.push(PoolFinished(1))
        received = [await buffer.next() for _ in range(len(parts) + 2)]
        assert [len(event.indices) for event in received if isinstance(event, Pooled)] == parts

    asyncio.run(scenario())


def test_vectors_beyond_what_was_asked_for_do_not_fit() -> None:
    async def scenario() -> None:
        buffer = EventBuffer(pooled_answer_bytes(100, 64))
        pushed = 0
        while buffer.push(Pooled((pushed,), bytes(4 * 64))):
            pushed += 1
            assert pushed < 110, "it never refused"
        assert pushed >= 100

    asyncio.run(scenario())
