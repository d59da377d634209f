"""Who runs with whom: plans, budgets, choices that share a prefill, and cancels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.contract.decoder import Copy, SequenceKey, Slice
from tests.engine.kit import ROOMY, STREAMS, SYSTEM, TIGHT, Engine, ops


def test_decodes_come_first_and_prompts_share_the_budget() -> None:
    engine = Engine(ROOMY, budget=20)
    engine.add("a", range(10), n_tokens=9)
    engine.step()
    engine.add("b", range(20, 32))
    engine.add("c", range(40, 70))
    step = engine.step()
    assert [(len(part.tokens), part.sample) for part in step.plan.slices] == [
        (1, (SequenceKey("a", 0),)),
        (12, (SequenceKey("b", 0),)),
        (8, ()),
    ]
    assert step.prefill_tokens == 20


def test_a_long_prompt_leaves_half_of_the_budget_to_shorter_ones() -> None:
    engine = Engine(ROOMY, budget=20)
    engine.add("long", range(300))
    engine.step()
    engine.add("short", range(300, 309))
    step = engine.step()
    assert [len(part.tokens) for part in step.plan.slices] == [11, 9]
    assert SequenceKey("short", 0) in engine.answers


def test_a_prompt_that_lacks_one_token_goes_with_the_decodes() -> None:
    engine = Engine(ROOMY, budget=20)
    engine.turn("a", SYSTEM)
    engine.add("long", range(300))
    engine.step()
    engine.add("again", SYSTEM)
    step = engine.step()
    assert step.plan.slices[0].sample == (SequenceKey("again", 0),)
    assert len(step.plan.slices[0].tokens) == 1


@pytest.mark.parametrize("limit", [{"parallel": 2}, {"n_seq_max": 2}, {"n_batch": 2}, {"n_outputs_max": 2}])
def test_no_more_run_than_every_limit_allows(limit: dict[str, int]) -> None:
    engine = Engine(replace(ROOMY, **limit), budget=8)
    for index in range(5):
        engine.add(str(index), (index, 7, 8))
    engine.run()
    assert max(len(step.plan.slices) for step in engine.steps) == 2
    assert len(engine.finished) == 5


def test_a_prompt_leaves_room_in_the_batch_for_younger_answers() -> None:
    engine = Engine(replace(ROOMY, n_batch=8))
    engine.add("long", range(100))
    engine.step()
    engine.add("young", (200,), n_tokens=5)
    engine.run()
    for step in engine.steps[1:6]:
        assert [part.sample for part in step.plan.slices] == [(SequenceKey("young", 0),), ()]
        assert step.plan.n_tokens == 8


def test_requests_are_admitted_in_order_of_arrival() -> None:
    engine = Engine(replace(ROOMY, parallel=1))
    for index in range(4):
        engine.add(str(index), (index, 7, 8))
    engine.run()
    assert [key.request_id for key in engine.finished] == ["0", "1", "2", "3"]


def test_choices_share_one_prefill_and_draw_from_its_last_row() -> None:
    engine = Engine(ROOMY, budget=30)
    engine.add("r", SYSTEM, n=3)
    engine.step()
    step = engine.step()
    keys = tuple(SequenceKey("r", choice) for choice in range(3))
    assert step.plan.slices == (Slice(0, 30, SYSTEM[30:], keys),)
    assert engine.step().plan.ops == (Copy(0, 1, len(SYSTEM)), Copy(0, 2, len(SYSTEM)))
    engine.run()
    assert engine.n_evaluated == len(SYSTEM) + 3 * 2
    assert len({engine.text("r", choice) for choice in range(3)}) == 3


def test_choices_that_find_no_place_copy_the_prompt_later() -> None:
    engine = Engine(replace(ROOMY, parallel=2))
    engine.add("r", SYSTEM, n=5)
    engine.run()
    assert len(engine.finished) == 5
    assert sum(step.prefill_tokens for step in engine.steps) == len(SYSTEM) + 2, "two later rounds, one row each"
    assert engine.steps[0].admitted[0].cached_tokens == 0, "what a sibling evaluated is not cached for the request"


def test_choices_without_cache_share_their_prefill_too_and_leave_nothing() -> None:
    engine = Engine(replace(ROOMY, parallel=2))
    engine.add("r", SYSTEM, n=4, keep=False)
    engine.run()
    assert sum(step.prefill_tokens for step in engine.steps) == len(SYSTEM) + 1
    engine.turn("last", (1,))
    assert engine.decoder.memory.n_cells_used == 1 + 2


def test_a_choice_that_ends_with_its_first_token_is_not_copied() -> None:
    engine = Engine(ROOMY)
    engine.add("r", SYSTEM, n=4, n_tokens=1)
    engine.run()
    assert len(engine.steps) == 1
    assert ops([*engine.steps, *engine.turn("next", (1,))]) == []


@pytest.mark.parametrize("limit", [{"can_copy": False}, {"layout": "streams", "copy_cost_tokens": 50}])
def test_choices_prefill_each_where_copying_is_no_use(limit: dict) -> None:
    engine = Engine(replace(STREAMS, **limit))
    engine.add("r", SYSTEM, n=3)
    engine.run()
    assert ops(engine.steps) == []
    assert sum(step.prefill_tokens for step in engine.steps) == 3 * len(SYSTEM)


@pytest.mark.parametrize("n_steps", range(6))
def test_a_cancel_works_in_every_state_and_twice(n_steps: int) -> None:
    engine = Engine(replace(ROOMY, parallel=2), budget=30)
    engine.add("r", SYSTEM, n=3)
    engine.add("other", range(5))
    for _ in range(n_steps):
        engine.step()
    engine.scheduler.cancel("r")
    engine.scheduler.cancel("r")
    engine.scheduler.cancel("unknown")
    engine.scheduler.check()
    n_drawn = {key: len(answer) for key, answer in engine.answers.items() if key.request_id == "r"}
    engine.run()
    assert {key: len(answer) for key, answer in engine.answers.items() if key.request_id == "r"} == n_drawn
    assert SequenceKey("other", 0) in engine.finished


def test_the_same_calls_give_the_same_plans() -> None:
    def plans() -> list:
        engine = Engine(replace(TIGHT, n_cells=90), budget=7)
        for index in range(9):
            engine.add(str(index), (*SYSTEM[: 10 + index], index), n_tokens=12, n=1 + index % 3)
            engine.step()
        engine.run()
        return [step.plan for step in engine.steps]

    assert plans() == plans()
