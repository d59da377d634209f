"""Which evaluated tokens are used again, by whom, and at what cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.contract.decoder import Capabilities, Clear, Copy, SequenceKey, Slice, Truncate
from tests.engine.kit import ROOMY, STREAMS, SYSTEM, Engine, cached, ops


def test_the_next_turn_of_a_conversation_claims_its_sequence() -> None:
    engine = Engine(ROOMY)
    engine.turn("first", SYSTEM)
    prompt = (*SYSTEM, *engine.text("first"), 1, 2, 3)
    steps = engine.turn("second", prompt)
    # The answer's last token was drawn, but never evaluated.
    assert cached(steps[0]) == {"second": len(SYSTEM) + 2}
    assert steps[0].plan.slices[0] == Slice(0, len(SYSTEM) + 2, prompt[len(SYSTEM) + 2 :], (SequenceKey("second", 0),))
    assert ops(steps) == []


def test_the_same_prompt_again_evaluates_one_token() -> None:
    engine = Engine(ROOMY)
    engine.turn("first", SYSTEM)
    steps = engine.turn("second", SYSTEM)
    assert steps[0].plan.n_tokens == 1
    assert ops(steps) == [Truncate(0, len(SYSTEM) - 1)]
    assert cached(steps[0]) == {"second": len(SYSTEM) - 1}


@pytest.mark.parametrize("capabilities", [ROOMY, STREAMS], ids=["unified", "streams"])
def test_a_conversation_that_shares_only_the_system_prompt_is_copied_from(capabilities: Capabilities) -> None:
    engine = Engine(capabilities)
    engine.turn("first", (*SYSTEM, *range(60)))
    steps = engine.turn("second", (*SYSTEM, *range(70, 90)))
    assert ops(steps) == [Copy(0, 1, len(SYSTEM))]
    again = engine.turn("first again", (*SYSTEM, *range(60), 9))
    assert cached(again[0]) == {"first again": len(SYSTEM) + 60}, "the first conversation lost its tail"


def test_more_conversations_than_places_keep_their_prefixes() -> None:
    engine = Engine(replace(ROOMY, parallel=1, n_seq_max=6))
    prompts = {str(index): (*SYSTEM, *range(200 + 30 * index, 230 + 30 * index)) for index in range(6)}
    for turn in range(3):
        for name, prompt in prompts.items():
            steps = engine.turn(f"{name} turn {turn}", prompt)
            if turn:
                assert cached(steps[0])[f"{name} turn {turn}"] >= len(prompt) - 6
            prompts[name] = (*prompt, *engine.text(f"{name} turn {turn}"), 5, 6)


def test_the_least_recently_used_prefix_is_evicted_for_a_sequence() -> None:
    engine = Engine(replace(ROOMY, parallel=1, n_seq_max=3))
    for index in range(3):
        engine.turn(str(index), (index, *range(20)))
    engine.turn("0 again", (0, *range(20), 1))
    assert ops(engine.turn("new", (9, 9, 9))) == [Clear(1)]
    assert cached(engine.turn("2 again", (2, *range(20), 1))[0]) == {"2 again": 21}


def test_a_copy_does_not_evict_its_own_source() -> None:
    engine = Engine(replace(ROOMY, parallel=1, n_seq_max=2))
    engine.turn("source", (*SYSTEM, *range(40)))
    engine.turn("other", range(300, 340))
    assert ops(engine.turn("new", (*SYSTEM, *range(50, 90)))) == [Truncate(0, 50)], "the source was next to go anyway"
    engine.turn("other again", (*range(300, 340), 1))
    steps = engine.turn("newer", (*range(300, 330), *range(200, 220)))
    assert ops(steps) == [Clear(0), Copy(1, 0, 30)]


def test_a_prefix_of_another_owner_is_not_reused() -> None:
    engine = Engine(ROOMY)
    engine.turn("mine", SYSTEM, owner="me")
    assert cached(engine.turn("yours", SYSTEM, owner="you")[0]) == {"yours": 0}
    assert cached(engine.turn("mine again", SYSTEM, owner="me")[0]) == {"mine again": len(SYSTEM) - 1}


def test_a_request_without_cache_neither_uses_nor_leaves_a_prefix() -> None:
    engine = Engine(ROOMY)
    engine.turn("kept", SYSTEM)
    assert cached(engine.turn("apart", SYSTEM, keep=False)[0]) == {"apart": 0}
    engine.turn("kept again", SYSTEM)
    assert engine.decoder.memory.held(1) == 0


def test_an_answer_that_was_cancelled_leaves_its_prefix() -> None:
    engine = Engine(ROOMY, budget=30)
    engine.add("left", SYSTEM)
    engine.step()
    engine.scheduler.cancel("left")
    engine.scheduler.check()
    assert cached(engine.turn("new", SYSTEM)[0]) == {"new": 30}


def test_streams_copy_only_what_is_dearer_to_prefill() -> None:
    engine = Engine(replace(STREAMS, copy_cost_tokens=len(SYSTEM)))
    engine.add("running", (*SYSTEM, *range(30)), n_tokens=50)
    engine.step()
    engine.add("alike", (*SYSTEM, 1))
    engine.step()
    assert ops(engine.steps) == []
    engine.add("more alike", (*SYSTEM, *range(20)))
    engine.step()
    assert ops(engine.steps) == [Copy(0, 2, len(SYSTEM) + 20 - 1)]


def test_copies_take_from_the_prefill_budget() -> None:
    engine = Engine(replace(STREAMS, copy_cost_tokens=20), budget=100)
    engine.add("running", SYSTEM, n_tokens=50)
    engine.step()
    engine.budget = 30
    for index in range(3):
        engine.add(str(index), (*SYSTEM, index, *range(20)))
    step = engine.step()
    assert len(step.plan.ops) == 2, "the third has to wait for the time that two copies take"
    assert step.prefill_tokens == 1
    assert len(engine.step().plan.ops) == 1


@pytest.mark.parametrize("capabilities", [ROOMY, STREAMS], ids=["unified", "streams"])
@pytest.mark.parametrize("budget", [512, 16])
def test_sixteen_requests_prefill_their_system_prompt_once(capabilities: Capabilities, budget: int) -> None:
    engine = Engine(replace(capabilities, parallel=16, n_seq_max=16, n_cells=16 * 400), budget)
    for index in range(16):
        engine.add(str(index), (*SYSTEM, index, 1, 2), n_tokens=1)
    engine.run()
    assert engine.n_evaluated == len(SYSTEM) + 16 * 3


def test_sixteen_requests_on_four_places_prefill_their_system_prompt_once() -> None:
    engine = Engine(ROOMY, budget=16)
    for index in range(16):
        engine.add(str(index), (*SYSTEM, index, 1, 2), n_tokens=1)
    engine.run()
    assert engine.n_evaluated == len(SYSTEM) + 16 * 3


def test_who_waits_for_a_prefill_keeps_its_place_and_holds_nobody_else_up() -> None:
    engine = Engine(replace(ROOMY, parallel=3), budget=20)
    engine.add("first", (*SYSTEM, 1), n_tokens=50)
    engine.add("alike", (*SYSTEM, 2), n_tokens=50)
    engine.add("unlike", range(5), n_tokens=50)
    engine.add("too many", range(5), n_tokens=50)
    step = engine.step()
    assert [request.request_id for request in step.admitted] == ["first", "unlike"]
    while not (step := engine.step()).admitted:
        assert all(part.seq < 2 for part in step.plan.slices)
    assert cached(step) == {"alike": len(SYSTEM)}, "its place was still free, and the whole prefix there"


def test_who_waits_for_a_prefill_that_is_cancelled_goes_on_itself() -> None:
    engine = Engine(ROOMY, budget=20)
    engine.add("first", (*SYSTEM, 1))
    engine.add("alike", (*SYSTEM, 2))
    engine.step()
    engine.scheduler.cancel("first")
    assert cached(engine.step()) == {"alike": 20}
    engine.run()
    assert engine.n_evaluated == len(SYSTEM) + 1 + 2


def test_few_common_tokens_are_not_worth_waiting_for() -> None:
    engine = Engine(ROOMY, budget=5)
    engine.add("first", (1, 2, 3, 4, 5, 6, 7, 8))
    engine.add("alike", (1, 2, 3, 4, 5, 6, 7, 9))
    assert len(engine.step().admitted) == 2


WHOLE = replace(ROOMY, can_truncate=False)


def test_a_whole_sequence_is_claimed_where_it_is_a_proper_beginning() -> None:
    engine = Engine(WHOLE)
    engine.turn("first", SYSTEM)
    steps = engine.turn("second", (*SYSTEM, *engine.text("first"), 1))
    assert cached(steps[0]) == {"second": len(SYSTEM) + 2}
    assert cached(engine.turn("third", (*SYSTEM, 1))[0]) == {"third": 0}


def test_a_sequence_that_is_the_whole_prompt_is_no_use_where_nothing_can_be_cut() -> None:
    engine = Engine(WHOLE)
    engine.turn("first", SYSTEM, n_tokens=1)
    assert cached(engine.turn("second", SYSTEM)[0]) == {"second": 0}


def test_a_prefill_stops_where_others_part_so_that_they_can_copy_it_whole() -> None:
    engine = Engine(WHOLE)
    for index in range(4):
        engine.add(str(index), (*SYSTEM, index, 1, 2), n_tokens=1)
    engine.run()
    assert engine.n_evaluated == len(SYSTEM) + 4 * 3
    assert [op for op in ops(engine.steps) if isinstance(op, Copy)] == [Copy(0, seq, 50) for seq in (1, 2, 3)]


def test_choices_are_forked_from_a_memory_that_cannot_be_cut() -> None:
    engine = Engine(WHOLE)
    engine.add("r", SYSTEM, n=3)
    engine.run()
    assert sum(step.prefill_tokens for step in engine.steps) == len(SYSTEM)
