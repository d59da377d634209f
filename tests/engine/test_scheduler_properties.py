"""Whatever comes together in one engine, each request gets the text that it gets alone."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings

from localllm.contract.decoder import Capabilities
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    PromptLogprobs,
    PromptToken,
    Started,
)
from localllm.contract.wire import WorkerEvent
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoders import ByteTokenizer
from tests.engine.workload_kit import Arrival, World, any_budgets, crowds, prepared, small_pools, workloads, worlds

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
MAX_EXAMPLES = 2500 if FULL else 150
TIME_LIMIT_SECONDS = 1200 if FULL else 60
STEP_LIMIT = 20_000  # far more than any of these workloads takes


@dataclass
class Answer:
    """All that came out for one request."""

    events: list[WorkerEvent] = field(default_factory=list)

    def texts(self) -> dict[int, str]:
        return {choice: thought + content for choice, (thought, content) in self.regions().items()}

    def regions(self) -> dict[int, tuple[str, str]]:
        """What each choice thinks, and what it says."""
        regions: dict[int, tuple[str, str]] = defaultdict(lambda: ("", ""))
        for happened in self.events:
            if isinstance(happened, Chunk):
                thought, content = regions[happened.choice]
                assert happened.region == "content" or not content, "a thought behind content"
                is_thought = happened.region == "reasoning"
                regions[happened.choice] = (
                    (thought + happened.text, content) if is_thought else (thought, content + happened.text)
                )
        return dict(regions)

    def logprobs(self) -> dict[int, tuple]:
        entries: dict[int, tuple] = defaultdict(tuple)
        for happened in self.events:
            if isinstance(happened, Chunk):
                entries[happened.choice] += happened.logprobs
        return dict(entries)

    def prompt_tokens(self) -> list[PromptToken]:
        return [token for happened in self.events if isinstance(happened, PromptLogprobs) for token in happened.tokens]

    def finishes(self) -> dict[int, ChoiceFinished]:
        return {happened.choice: happened for happened in self.events if isinstance(happened, ChoiceFinished)}

    @property
    def is_whole(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Finished)


class AnyBudget:
    """Prefill budgets in any order: the text may not depend on how prompts are cut into chunks."""

    def __init__(self, budgets: list[int]) -> None:
        self._budgets = itertools.cycle(budgets)

    def budget(self, *, decoding: bool) -> int:
        return next(self._budgets)

    def observe(self, prefill_tokens: int, seconds: float) -> None:
        pass


def alone(world: World, request: PreparedRequest) -> Answer:
    """The same request in an engine of its own, with more memory than it can use."""
    capabilities = Capabilities(
        context_length=world.capabilities.context_length,
        n_cells=100_000,
        n_seq_max=16,
        n_batch=512,
        parallel=8,
        can_score=True,
    )
    # A budget counts what was drawn, so that it shows how much that is at once.
    tokens_per_draw = 1 if request.reply.thought_budget is None else world.tokens_per_draw
    world = replace(world, tokens_per_draw=tokens_per_draw)
    loop = StepLoop(world.decoder(capabilities), ByteTokenizer(), lambda: 0.0)
    loop.submit(replace(request, cache_prompt=False))
    answer = Answer()
    for _ in range(STEP_LIMIT):
        if not loop.has_work:
            return answer
        answer.events += [happened for _, happened in loop.step().events]
    raise AssertionError("a request alone does not come to an end")


@dataclass
class Run:
    """A workload on its way through one loop."""

    world: World
    workload: list[Arrival]
    budgets: list[int]
    submitted: dict[str, PreparedRequest] = field(default_factory=dict)
    submitted_at: dict[str, int] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=lambda: defaultdict(Answer))

    def __post_init__(self) -> None:
        self.decoder = self.world.decoder()
        ticks = itertools.count()
        self.loop = StepLoop(self.decoder, ByteTokenizer(), lambda: float(next(ticks)))
        self.loop._pacer = AnyBudget(self.budgets)

    def prompt_of(self, index: int) -> bytes | None:
        """The prompt of an arrival, or None while the turn before it is not over."""
        arrival = self.workload[index]
        if arrival.after is None:
            prompt = arrival.prompt
        else:
            before = self.answers.get(str(arrival.after))
            if str(arrival.after) not in self.submitted or before is None or not before.is_whole:
                return None
            prompt = bytes(self.submitted[str(arrival.after)].prompt)
            prompt += before.texts().get(0, "").encode() + arrival.prompt
        return prompt[: self.world.capabilities.context_length - 1]

    def submit_due(self, step: int) -> bool:
        """Submit what is due; True while something that can still come is missing."""
        missing = False
        for index, arrival in enumerate(self.workload):
            request_id = str(index)
            if request_id in self.submitted:
                continue
            if step < arrival.at_step:
                missing = True
            elif (prompt := self.prompt_of(index)) is not None:
                request = prepared(arrival, request_id, prompt)
                self.loop.submit(request)
                self.submitted[request_id] = request
                self.submitted_at[request_id] = step
        return missing

    def cancel_due(self, step: int) -> None:
        for request_id, since in self.submitted_at.items():
            cancel_at = self.workload[int(request_id)].cancel_at
            if cancel_at is not None and step == since + cancel_at:
                self.loop.cancel(request_id)
                self.loop.cancel(request_id)
                if not self.answers[request_id].is_whole:
                    self.cancelled.add(request_id)

    def run(self) -> None:
        self.loop.cancel("never seen")
        for step in range(STEP_LIMIT):
            missing = self.submit_due(step)
            self.cancel_due(step)
            if not self.loop.has_work and not missing:
                self.submit_due(step)  # a turn that follows one that was just cancelled or never came
                if not self.loop.has_work:
                    return
            for request_id, happened in self.loop.step().events:
                assert request_id not in self.cancelled, "an event of a request that was cancelled"
                self.answers[request_id].events.append(happened)
            self.loop.check()
        raise AssertionError("the workload does not come to an end")


def check_shape(request: PreparedRequest, answer: Answer) -> None:
    """Started, the prompt's tokens where wanted, then chunks and one end for each choice, then Finished."""
    assert isinstance(answer.events[0], Started)
    assert isinstance(answer.events[-1], Finished)
    n_told = sum(isinstance(happened, PromptLogprobs) for happened in answer.events)
    assert all(isinstance(happened, PromptLogprobs) for happened in answer.events[1 : 1 + n_told])
    told = answer.prompt_tokens()
    assert tuple(token.id for token in told) == (() if request.prompt_logprobs is None else request.prompt)
    assert [token.logprob is None for token in told] == [index == 0 for index in range(len(told))]
    ended: set[int] = set()
    for happened in answer.events[1 + n_told : -1]:
        assert isinstance(happened, Chunk | ChoiceFinished)
        assert happened.choice not in ended
        if isinstance(happened, ChoiceFinished):
            ended.add(happened.choice)
        else:
            assert happened.text or happened.logprobs
    assert ended == set(range(request.sampling.n))
    usage = answer.events[-1].usage
    assert usage.prompt_tokens == len(request.prompt)
    assert 0 <= usage.cached_tokens < len(request.prompt)
    assert (request.cache_prompt and request.prompt_logprobs is None) or usage.cached_tokens == 0


def check_workload(world: World, workload: list[Arrival], budgets: list[int]) -> None:
    run = Run(world, workload, budgets)
    run.run()
    for request_id, request in run.submitted.items():
        answer = run.answers[request_id]
        if request_id in run.cancelled:
            continue
        check_shape(request, answer)
        expected = alone(world, request)
        assert answer.regions() == expected.regions()
        assert answer.finishes() == expected.finishes()
        assert answer.logprobs() == expected.logprobs()
        assert answer.prompt_tokens() == expected.prompt_tokens()
        usage, usage_alone = answer.events[-1].usage, expected.events[-1].usage
        assert usage.completion_tokens == usage_alone.completion_tokens
        assert usage.reasoning_tokens == usage_alone.reasoning_tokens
    n_bare = sum(not plan.slices for plan in run.decoder.plans)
    assert n_bare <= run.decoder.n_restores, "a step that evaluates nothing"
    assert run.decoder.open_requests == frozenset()
    scheduler = run.loop._scheduler
    assert not scheduler._requests
    assert len(scheduler._residents._idle) == len(scheduler._residents._by_seq), "a sequence leaked"
    assert all(resident.scope[0] == "owner" for resident in scheduler._residents._idle.values())


thorough = settings(max_examples=MAX_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(TIME_LIMIT_SECONDS)
@thorough
@given(worlds(), workloads(), any_budgets)
def test_each_request_gets_the_text_that_it_gets_alone(
    world: World, workload: list[Arrival], budgets: list[int]
) -> None:
    check_workload(world, workload, budgets)


@pytest.mark.timeout(TIME_LIMIT_SECONDS)
@thorough
@given(small_pools(), crowds(), any_budgets)
def test_a_pool_that_runs_out_of_cells_cuts_nobody_short(
    world: World, workload: list[Arrival], budgets: list[int]
) -> None:
    check_workload(world, workload, budgets)
