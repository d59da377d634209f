"""What happens when cells run out: idle prefixes go, then the youngest waits, and nobody loses a token."""

from __future__ import annotations

from dataclasses import replace

from localllm.contract.decoder import Clear
from tests.engine.kit import TIGHT, Engine, finished_requests, ops


def test_idle_prefixes_go_before_anybody_running_is_preempted() -> None:
    engine = Engine(TIGHT)
    engine.turn("old", range(20))
    engine.turn("newer", range(100, 120))
    engine.add("long", range(200, 215), n_tokens=40)
    engine.run()
    assert ops(engine.steps) == [Clear(0), Clear(1)]
    assert [op.seq for op in ops(engine.steps)] == [0, 1]


def test_the_youngest_is_preempted_and_loses_nothing() -> None:
    engine = Engine(TIGHT)
    engine.add("old", range(20), n_tokens=30)
    engine.add("young", range(100, 120), n_tokens=30)
    engine.run()
    assert Clear(1) in ops(engine.steps), "the younger one gave its cells back"
    assert finished_requests(engine) == ["old", "young"]
    alone = Engine(TIGHT)
    alone.add("young", range(100, 120), n_tokens=30)
    alone.run()
    assert engine.text("young") == alone.text("young")
    assert [request.request_id for step in engine.steps for request in step.admitted].count("young") == 1


def test_a_preempted_answer_is_first_in_the_queue_again() -> None:
    engine = Engine(replace(TIGHT, parallel=2))
    engine.add("old", range(20), n_tokens=30)
    engine.add("young", range(100, 120), n_tokens=30)
    engine.add("later", range(50, 90), n_tokens=2)
    engine.run()
    assert finished_requests(engine) == ["old", "young", "later"]


def test_what_was_preempted_is_evaluated_again_within_the_budget() -> None:
    engine = Engine(TIGHT, budget=20)
    engine.add("old", range(20), n_tokens=30)
    engine.add("young", range(100, 120), n_tokens=30)
    engine.run()
    n_lost = max(len(part.tokens) + part.start for step in engine.steps[:20] for part in step.plan.slices if part.seq)
    again = [step for step in engine.steps[20:] if step.prefill_tokens]
    assert sum(step.prefill_tokens for step in again) == n_lost + 1, "and the token that was not evaluated yet"
    assert again[0].prefill_tokens == 20


def test_prompts_that_do_not_fit_together_run_one_after_the_other() -> None:
    engine = Engine(TIGHT)
    engine.add("a", range(40))
    engine.add("b", range(100, 140))
    engine.run()
    assert all(len(step.plan.slices) == 1 for step in engine.steps)
    assert [op for op in ops(engine.steps) if isinstance(op, Clear)] == [Clear(0)], "a's prefix, once a was over"


def test_a_request_may_use_its_context_to_the_last_cell() -> None:
    engine = Engine(TIGHT)
    engine.add("a", range(59), n_tokens=1)
    engine.add("b", range(100, 120), n_tokens=40)
    engine.run()
    assert len(engine.text("b")) == 40


def test_shared_cells_are_counted_once() -> None:
    engine = Engine(replace(TIGHT, n_cells=70, parallel=4))
    for index in range(4):
        engine.add(str(index), (*range(45), index), n_tokens=3)
    engine.run()
    assert engine.n_evaluated == 45 + 4 + 4 * 2, "four times 45 cells would not have fitted"
