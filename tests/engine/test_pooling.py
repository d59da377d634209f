"""Batches are full, shared and fair: each text is given out once, and nobody waits for a big request."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.pooling import PoolCapabilities
from localllm.engine.pooling import Part, PoolQueue


def queue_of(batch_tokens: int = 10, batch_texts: int = 4, context_length: int = 1000) -> PoolQueue:
    return PoolQueue(PoolCapabilities(context_length, batch_tokens, batch_texts))


def drain(queue: PoolQueue) -> list[list[Part]]:
    batches = []
    while queue.has_work:
        batches.append(queue.next_batch())
        queue.check()
    return batches


def test_one_request_is_packed_longest_first_into_full_batches() -> None:
    queue = queue_of()
    queue.add("r", [3, 7, 1, 10, 5, 2, 4])
    assert drain(queue) == [[Part("r", (3,))], [Part("r", (1, 0))], [Part("r", (4, 6, 2))], [Part("r", (5,))]]


def test_texts_of_equal_length_come_in_input_order() -> None:
    queue = queue_of(batch_texts=2)
    queue.add("r", [2, 2, 2])
    assert drain(queue) == [[Part("r", (0, 1))], [Part("r", (2,))]]


def test_a_text_longer_than_a_batch_goes_alone() -> None:
    queue = queue_of()
    queue.add("r", [1, 500, 1])
    queue.add("other", [1])
    first, *_ = drain(queue)
    assert first == [Part("r", (1,))]


def test_what_is_left_of_a_batch_is_for_the_next_in_turn() -> None:
    queue = queue_of()
    queue.add("a", [6])
    queue.add("b", [5, 3])
    queue.add("c", [2, 1])
    assert drain(queue) == [[Part("a", (0,)), Part("b", (1,)), Part("c", (1,))], [Part("b", (0,)), Part("c", (0,))]]


def test_many_small_requests_share_one_batch() -> None:
    queue = queue_of(batch_texts=100)
    for number in range(10):
        queue.add(f"r{number}", [1], owner=f"key {number % 3}")
    (batch,) = drain(queue)
    assert len(batch) == 10


def test_a_small_request_waits_one_batch_for_one_of_2048_texts() -> None:
    queue = queue_of(batch_tokens=256, batch_texts=64)
    queue.add("big", [64] * 2048)
    for number in range(5):
        assert queue.next_batch() == [Part("big", tuple(range(4 * number, 4 * number + 4)))]
    queue.add("small", [40, 64, 100, 52])
    before, mine = queue.next_batch(), queue.next_batch()
    assert [part.request_id for part in before] == ["big"]
    assert mine == [Part("small", (2, 1, 3, 0))]


def test_one_owner_with_many_requests_takes_turns_with_another() -> None:
    queue = queue_of(batch_texts=1)
    for number in range(4):
        queue.add(f"greedy {number}", [1, 1], owner="greedy")
    queue.add("modest", [1, 1], owner="modest")
    leaders = [batch[0].request_id for batch in drain(queue)]
    assert leaders[:4] == ["greedy 0", "modest", "greedy 1", "modest"]


def test_a_cancelled_request_is_in_no_later_batch() -> None:
    queue = queue_of()
    queue.add("a", [10, 10])
    queue.add("b", [10])
    assert queue.next_batch() == [Part("a", (0,))]
    queue.cancel("a")
    queue.cancel("a")
    queue.cancel("nobody")
    queue.check()
    assert drain(queue) == [[Part("b", (0,))]]
    assert queue.next_batch() == []


@dataclass(frozen=True)
class Arrival:
    """A request: before which batch it comes, and before which its client leaves."""

    at: int
    lengths: tuple[int, ...]
    owner: str
    cancel_at: int | None


@dataclass
class Story:
    """What became of a request."""

    arrival: Arrival
    given: list[int] = field(default_factory=list)
    n_batches: int = 0  # given out while it waited
    most_owners: int = 0
    most_requests: int = 0  # of its owner
    is_open: bool = True

    def turns_bound(self, capabilities: PoolCapabilities) -> int:
        """How often it leads at most, as the queue promises."""
        n_tokens, n_texts = sum(self.arrival.lengths), len(self.arrival.lengths)
        if n_tokens <= capabilities.batch_tokens and n_texts <= capabilities.batch_texts:
            return 1
        return 1 + 2 * n_tokens // capabilities.batch_tokens + n_texts // capabilities.batch_texts


LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 6), min_size=1, max_size=60),
    st.lists(st.sampled_from([1, 8, 15, 16, 17, 100]), min_size=1, max_size=20),
)
ARRIVALS = st.builds(
    Arrival,
    st.integers(0, 12),
    LENGTHS.map(tuple),
    st.sampled_from(["", "", "key a", "key b"]),
    st.none() | st.integers(0, 20),
)
CAPABILITIES = st.builds(
    PoolCapabilities, st.just(100), st.sampled_from([1, 7, 16, 33]), st.sampled_from([1, 2, 8, 99])
)


def check_batch(batch: list[Part], stories: dict[str, Story], capabilities: PoolCapabilities) -> None:
    lengths = [stories[part.request_id].arrival.lengths[index] for part in batch for index in part.indices]
    assert lengths
    assert len(lengths) <= capabilities.batch_texts
    room = capabilities.batch_tokens - sum(lengths)
    assert room >= 0 or len(lengths) == 1
    assert len({part.request_id for part in batch}) == len(batch)
    for part in batch:
        story = stories[part.request_id]
        assert story.is_open, "a text of a request that was over or cancelled"
        story.given += part.indices
        assert len(set(story.given)) == len(story.given), "a text twice"
    if len(lengths) < capabilities.batch_texts:
        waiting = [
            length
            for story in stories.values()
            if story.is_open
            for index, length in enumerate(story.arrival.lengths)
            if index not in story.given
        ]
        assert all(length > room for length in waiting), "a waiting text would have fitted"


def note_waiting(stories: dict[str, Story]) -> None:
    running = [story for story in stories.values() if story.is_open]
    owners = [story.arrival.owner for story in running]
    for story in running:
        story.n_batches += 1
        story.most_owners = max(story.most_owners, len(set(owners)))
        story.most_requests = max(story.most_requests, owners.count(story.arrival.owner))


@given(CAPABILITIES, st.lists(ARRIVALS, min_size=1, max_size=8))
def test_any_workload_is_answered_once_in_legal_full_batches_and_in_bounded_turns(
    capabilities: PoolCapabilities, arrivals: list[Arrival]
) -> None:
    queue = PoolQueue(capabilities)
    stories: dict[str, Story] = {}
    now = 0
    while queue.has_work or now <= max(arrival.at for arrival in arrivals):
        for number, arrival in enumerate(arrivals):
            if arrival.at == now:
                stories[f"r{number}"] = Story(arrival)
                queue.add(f"r{number}", arrival.lengths, owner=arrival.owner)
            if arrival.cancel_at == now and f"r{number}" in stories:
                queue.cancel(f"r{number}")
                stories[f"r{number}"].is_open = False
        queue.check()
        note_waiting(stories)
        batch = queue.next_batch()
        queue.check()
        if batch:
            check_batch(batch, stories, capabilities)
        for story in stories.values():
            if len(story.given) == len(story.arrival.lengths):
                story.is_open = False
        assert queue.has_work == any(story.is_open for story in stories.values())
        now += 1
    for story in stories.values():
        turn = story.most_owners * story.most_requests
        assert story.n_batches <= turn * story.turns_bound(capabilities)
