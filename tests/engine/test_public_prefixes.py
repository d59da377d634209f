"""A prefix that the configuration published is everybody's; nothing else that an owner had evaluated is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.decoder import Capabilities, Clear, Copy
from tests.engine.kit import ROOMY, STREAMS, Engine, cached, ops

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
PUBLIC = tuple(range(200, 240))
WHOLE = replace(ROOMY, can_truncate=False)


def engine_with(capabilities: Capabilities, *prefixes: Sequence[int]) -> Engine:
    engine = Engine(capabilities)
    for index, prefix in enumerate(prefixes):
        engine.turn(f"preload[{index}]", prefix, n_tokens=1, is_public=True)
    return engine


def cached_tokens(engine: Engine, request_id: str, prompt: Sequence[int], owner: str, **options: bool) -> int | None:
    return cached(engine.turn(request_id, prompt, owner=owner, **options)[0])[request_id]


@pytest.mark.parametrize("capabilities", [ROOMY, STREAMS, WHOLE, replace(STREAMS, can_truncate=False)])
def test_a_public_prefix_is_found_by_every_owner_one_after_the_other(capabilities: Capabilities) -> None:
    engine = engine_with(capabilities, PUBLIC)
    for owner in ("a", "b", "", "c"):
        assert cached_tokens(engine, owner + "1", (*PUBLIC, 1, 2, 3), owner) == len(PUBLIC)


def test_owners_who_come_together_share_it_and_write_what_they_write_alone() -> None:
    engine = engine_with(ROOMY, PUBLIC)
    for owner in ("a", "b", "c"):
        engine.add(owner, (*PUBLIC, ord(owner)), owner=owner)
    first = engine.step()
    assert cached(first) == dict.fromkeys("abc", len(PUBLIC))
    assert first.plan.n_tokens == 3
    engine.run()


def test_who_comes_while_it_is_evaluated_waits_for_it() -> None:
    engine = Engine(ROOMY, budget=16)
    engine.add("preload[0]", PUBLIC, n_tokens=1, is_public=True)
    engine.add("a", (*PUBLIC, 1), owner="a")
    engine.add("b", (*PUBLIC, 2), owner="b")
    engine.run()
    told = {name: n for step in engine.steps for name, n in cached(step).items()}
    assert told == {"preload[0]": 0, "a": len(PUBLIC), "b": len(PUBLIC)}


def test_nothing_behind_it_is_anybody_elses() -> None:
    engine = engine_with(ROOMY, PUBLIC)
    secret = (*PUBLIC, 1, 2, 3, 4, 5, 6)
    assert cached_tokens(engine, "a1", secret, "a") == len(PUBLIC)
    assert cached_tokens(engine, "b1", (*secret, 7), "b") == len(PUBLIC)
    assert cached_tokens(engine, "a2", (*secret, 7), "a") == len(secret)


def test_what_begins_with_a_part_of_it_is_not_public() -> None:
    engine = engine_with(replace(ROOMY, n_seq_max=1, parallel=1), PUBLIC)
    assert cached_tokens(engine, "a1", (*PUBLIC[:20], 1, 2), "a") == 20  # evicts the whole prefix, and has a part
    assert cached_tokens(engine, "b1", (*PUBLIC, 3), "b") == 0
    assert cached_tokens(engine, "a2", (*PUBLIC, 4), "a") == len(PUBLIC), "it came back with the one who used it"


def test_a_private_conversation_is_not_taken_from_its_owner_for_the_prefix_in_it() -> None:
    engine = engine_with(ROOMY, PUBLIC)
    conversation = (*PUBLIC, 1, 2)
    engine.turn("a1", conversation, owner="a")
    engine.turn("b1", (*PUBLIC, 3, 4), owner="b")
    assert cached_tokens(engine, "a2", (*conversation, *engine.text("a1"), 9), "a") == len(conversation) + 2


def test_a_request_that_keeps_to_itself_neither_uses_nor_leaves_it() -> None:
    engine = engine_with(ROOMY, PUBLIC)
    assert cached_tokens(engine, "a1", (*PUBLIC, 1), "a", keep=False) == 0


def test_a_memory_that_cannot_truncate_keeps_the_original_for_others() -> None:
    engine = engine_with(WHOLE, PUBLIC)
    steps = [step for name in "abc" for step in engine.turn(name, (*PUBLIC, 1, 2, 3), owner=name)]
    copies = [op for op in ops(steps) if isinstance(op, Copy)]
    assert [copy.length for copy in copies] == [len(PUBLIC)] * 3
    assert not [op for op in ops(steps) if isinstance(op, Clear)]


def test_it_goes_like_all_that_was_not_used_for_longest_and_using_it_counts() -> None:
    engine = engine_with(replace(WHOLE, n_seq_max=3, parallel=1), PUBLIC)
    for index in range(6):
        assert cached_tokens(engine, f"user{index}", (*PUBLIC, index), f"owner{index}") == len(PUBLIC)
    for index in range(3):
        engine.turn(f"other{index}", (index + 1, 2, 3), owner="x")
    assert cached_tokens(engine, "late", (*PUBLIC, 9), "late") == 0


def test_of_several_prefixes_each_finds_the_longest() -> None:
    engine = engine_with(ROOMY, PUBLIC, (*PUBLIC, 50, 51), (7, 8, 9))
    assert cached_tokens(engine, "a", (*PUBLIC, 50, 51, 1), "a") == len(PUBLIC) + 2
    assert cached_tokens(engine, "b", (*PUBLIC, 50, 1), "b") == len(PUBLIC) + 1
    assert cached_tokens(engine, "c", (7, 8, 9, 1), "c") == 3


@dataclass(frozen=True)
class Turn:
    """A request; ``beside`` has it come before the one before it is over."""

    owner: str
    prompt: tuple[int, ...]
    keep: bool
    beside: bool
    n_tokens: int


PUBLISHED = ((1, 2, 3, 4, 5, 6), (1, 2, 3, 1, 1, 1, 1), (4, 4, 4, 4))
PROMPTS = st.builds(
    lambda head, cut, tail: (*head[:cut], *tail),
    st.sampled_from(PUBLISHED),
    st.integers(0, 7),
    st.lists(st.integers(1, 4), min_size=1, max_size=12).map(tuple),
)
TURNS = st.lists(
    st.builds(
        Turn, st.sampled_from("abc"), PROMPTS, st.sampled_from([True] * 5 + [False]), st.booleans(), st.integers(1, 6)
    ),
    min_size=1,
    max_size=14,
)


@st.composite
def memories(draw: st.DrawFn) -> Capabilities:
    parallel = draw(st.integers(1, 4))
    n_seq_max = parallel + draw(st.integers(0, 5))
    streams = draw(st.booleans())
    return Capabilities(
        context_length=40,
        n_cells=40 * n_seq_max if streams else draw(st.sampled_from([40, 60, 200])),
        n_seq_max=n_seq_max,
        n_batch=draw(st.sampled_from([3, 64])),
        parallel=parallel,
        layout="streams" if streams else "unified",
        can_truncate=draw(st.booleans()),
        can_copy=draw(st.sampled_from([True, True, False])),
        copy_cost_tokens=draw(st.sampled_from([0, 0, 3])),
    )


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@settings(max_examples=3000 if FULL else 200, deadline=None)
@given(memories(), TURNS)
def test_no_owner_gains_from_what_another_had_evaluated(capabilities: Capabilities, turns: list[Turn]) -> None:
    """Cached tokens are bounded by what the owner itself has asked before and by what was published."""
    engine = Engine(capabilities, budget=5)
    for index, prefix in enumerate(PUBLISHED):
        engine.add(f"preload[{index}]", prefix, n_tokens=1, is_public=True)
    for index, turn in enumerate(turns):
        engine.add(str(index), turn.prompt, n_tokens=turn.n_tokens, owner=turn.owner, keep=turn.keep)
        if not turn.beside:
            engine.run()
    engine.run()
    told = {name: n for step in engine.steps for name, n in cached(step).items()}
    for index, turn in enumerate(turns):
        own = [
            (*one.prompt, *engine.text(str(other)))
            for other, one in enumerate(turns)
            if other != index and one.owner == turn.owner and one.keep
        ]
        n_cached = told[str(index)] or 0
        assert n_cached <= max((shared(turn.prompt, known) for known in [*own, *PUBLISHED]), default=0)
        assert turn.keep or n_cached == 0
