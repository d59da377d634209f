"""What the scheduler does in the cases that it was made for, plan by plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from localllm.contract.decoder import Capabilities, Clear, Copy, Op, SequenceKey, Slice, Truncate
from localllm.contract.generation import SamplingParams
from localllm.engine.scheduler import Scheduler, Step
from localllm.testing.decoders import FakeDecoder

ROOMY = Capabilities(context_length=400, n_cells=4000, n_seq_max=12, n_batch=512, parallel=4)
STREAMS = replace(ROOMY, n_cells=12 * 400, layout="streams")
SYSTEM = tuple(range(100, 150))  # 50 tokens that prompts share


class Engine:
    """A scheduler with the strict fake decoder; answers have the length that ``add`` says."""

    def __init__(self, capabilities: Capabilities, budget: int = 512) -> None:
        self.scheduler = Scheduler(capabilities)
        self.decoder = FakeDecoder(capabilities)
        self.budget = budget
        self.steps: list[Step] = []
        self.answers: dict[SequenceKey, list[int]] = {}
        self.finished: list[SequenceKey] = []
        self._lengths: dict[str, int] = {}

    def add(self, request_id: str, prompt: Sequence[int], n_tokens: int = 3, n: int = 1, **options) -> None:
        self.decoder.open(request_id, SamplingParams(n=n, seed=1), prompt)
        self._lengths[request_id] = n_tokens
        self.scheduler.add(request_id, prompt, n, **options)

    def step(self) -> Step:
        step = self.scheduler.schedule(self.budget)
        assert step.plan.slices, "a step that evaluates nothing"
        self.decoder.submit(step.plan)
        going_on = {}
        for key, drawn in self.decoder.collect().items():
            tokens = [sampled.token for sampled in drawn]
            answer = self.answers.setdefault(key, [])
            answer += tokens
            if len(answer) < self._lengths[key.request_id]:
                going_on[key] = tokens
            else:
                self.finished.append(key)
        self.scheduler.commit(step, going_on)
        self.scheduler.check()
        self.steps.append(step)
        return step

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def turn(self, request_id: str, prompt: Sequence[int], **options) -> list[Step]:
        """One request from beginning to end."""
        before = len(self.steps)
        self.add(request_id, prompt, **options)
        self.run()
        return self.steps[before:]

    @property
    def n_evaluated(self) -> int:
        return sum(step.plan.n_tokens for step in self.steps)

    def text(self, request_id: str, choice: int = 0) -> tuple[int, ...]:
        return tuple(self.answers[SequenceKey(request_id, choice)])


def ops(steps: Sequence[Step]) -> list[Op]:
    return [op for step in steps for op in step.plan.ops]


def cached(step: Step) -> dict[str, int | None]:
    return {request.request_id: request.cached_tokens for request in step.admitted}


# --- batching -------------------------------------------------------------------------------------------------------


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


# --- prefix reuse ---------------------------------------------------------------------------------------------------


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


# --- requests that arrive together ----------------------------------------------------------------------------------


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


# --- several choices ------------------------------------------------------------------------------------------------


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


# --- memories that can't be cut -------------------------------------------------------------------------------------

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


# --- cells run out --------------------------------------------------------------------------------------------------

TIGHT = Capabilities(context_length=60, n_cells=60, n_seq_max=8, n_batch=64, parallel=4)


def test_idle_prefixes_go_before_anybody_running_is_preempted() -> None:
    engine = Engine(TIGHT)
    engine.turn("old", range(20))
    engine.turn("newer", range(100, 120))
    engine.add("long", range(200, 215), n_tokens=40)
    engine.run()
    assert ops(engine.steps) == [Clear(0), Clear(1)]
    assert [op.seq for op in ops(engine.steps)] == [0, 1]


def finished_requests(engine: Engine) -> list[str]:
    return [key.request_id for key in engine.finished]


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


# --- leaving --------------------------------------------------------------------------------------------------------


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
