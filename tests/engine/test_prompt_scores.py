"""Log-probabilities of prompts: every token once, in order, in few rows, whatever else goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from localllm.contract.decoder import Capabilities, Plan, Slice
from localllm.contract.errors import UnsupportedFeatureError
from localllm.contract.generation import ChoiceFinished, Chunk, Finished, PromptLogprobs, SamplingParams, Started
from localllm.contract.wire import WorkerEvent
from localllm.engine.scored_rows import MAX_SCORED_ROWS
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoders import ByteTokenizer, ContractViolation, FakeDecoder
from tests.engine.kit import ROOMY, SYSTEM, Engine, cached

SCORING = replace(ROOMY, can_score=True)
LONG = tuple(range(200)) + SYSTEM


def request(request_id: str, prompt: Sequence[int], n_top: int | None = 2, **sampling: Any) -> PreparedRequest:
    params = SamplingParams(temperature=0.0, **{"max_tokens": 3, **sampling})
    return PreparedRequest(request_id, tuple(prompt), params, "", True, 0.0, n_top)


class Loop:
    """A step loop over the strict fake."""

    def __init__(self, capabilities: Capabilities = SCORING) -> None:
        self.decoder = FakeDecoder(capabilities)
        self.loop = StepLoop(self.decoder, ByteTokenizer(), lambda: 0.0)
        self.events: list[tuple[str, WorkerEvent]] = []

    def run(self, *requests: PreparedRequest) -> None:
        for one in requests:
            self.loop.submit(one)
        while self.loop.has_work:
            self.events += self.loop.step().events
            self.loop.check()

    def of(self, request_id: str) -> list[WorkerEvent]:
        return [event for name, event in self.events if name == request_id]

    def told(self, request_id: str) -> list[Any]:
        return [t for event in self.of(request_id) if isinstance(event, PromptLogprobs) for t in event.tokens]

    @property
    def slices(self) -> list[Slice]:
        return [part for plan in self.decoder.plans for part in plan.slices]

    @property
    def rows(self) -> list[int]:
        return [sum(part.n_rows for part in plan.slices) for plan in self.decoder.plans]


def test_every_token_of_the_prompt_is_told_once_before_the_first_chunk() -> None:
    loop = Loop()
    loop.run(request("r", LONG))
    kinds = [type(event) for event in loop.of("r")]
    n_told = kinds.count(PromptLogprobs)
    assert kinds[: n_told + 1] == [Started] + [PromptLogprobs] * n_told
    assert PromptLogprobs not in kinds[n_told + 1 :]
    told = loop.told("r")
    assert tuple(token.id for token in told) == LONG
    assert [index for index, token in enumerate(told) if token.logprob is None] == [0]
    assert told[0].top == ()
    assert all(len(token.top) == 2 and None not in (other.id for other in token.top) for token in told[1:])


def test_texts_and_bytes_are_the_tokenizers_and_a_control_token_has_no_bytes() -> None:
    loop = Loop()
    loop.run(request("r", (257, ord("a"), 0xC3, 0xA9)))
    assert [(token.text, token.bytes) for token in loop.told("r")] == [
        ("<|begin|>", b""),
        ("a", b"a"),
        ("\ufffd", b"\xc3"),
        ("\ufffd", b"\xa9"),
    ]


def test_a_step_has_few_rows_and_never_more_than_the_context_allows() -> None:
    roomy = Loop()
    roomy.run(request("a", LONG), request("b", LONG[::-1]), request("c", LONG))
    assert max(roomy.rows) == MAX_SCORED_ROWS
    narrow = Loop(replace(SCORING, n_outputs_max=5))
    narrow.run(request("a", LONG), request("b", LONG[::-1]), request("c", LONG[:40], None, max_tokens=60))
    assert max(narrow.rows) == 5
    for name in "ab":
        wide = roomy.told(name)
        assert narrow.told(name) == wide
    single = Loop(replace(SCORING, n_outputs_max=1))
    single.run(request("a", LONG[:30]))
    assert set(single.rows) == {1}


def test_answers_go_on_while_a_prompt_is_scored() -> None:
    loop = Loop()
    loop.loop.submit(request("writing", SYSTEM, None, max_tokens=40))
    loop.events += loop.loop.step().events
    loop.run(request("scored", LONG))
    names = [name for name, event in loop.events if isinstance(event, Chunk | PromptLogprobs)]
    begin, end = names.index("scored"), len(names) - names[::-1].index("scored")
    assert "writing" in names[begin:end]
    alone = Loop()
    alone.run(request("writing", SYSTEM, None, max_tokens=40))
    assert loop.of("writing")[:-1] == alone.of("writing")[:-1]


def test_no_cached_prefix_is_claimed_but_one_is_left() -> None:
    engine = Engine(SCORING)
    engine.turn("first", SYSTEM)
    steps = engine.turn("scored", SYSTEM, n_top=0)
    assert cached(steps[0]) == {"scored": 0}
    assert sum(len(part.targets) for step in steps for part in step.plan.slices) == len(SYSTEM) - 1
    after = engine.turn("after", [*SYSTEM, 7, 8, 9])
    assert cached(after[0]) == {"after": len(SYSTEM)}


def test_a_preempted_prompt_is_not_scored_twice() -> None:
    capabilities = Capabilities(
        context_length=60, n_cells=80, n_seq_max=8, n_batch=64, parallel=4, n_outputs_max=3, can_score=True
    )
    engine = Engine(capabilities, budget=12)
    engine.add("old", list(range(30)), n_tokens=28)
    for _ in range(4):
        engine.step()
    engine.add("scored", list(range(100, 139)), n_tokens=1, n_top=1)
    engine.run()
    slices = [part for step in engine.steps for part in step.plan.slices]
    starts = [part.start for part in slices if part.tokens[0] >= 100]
    assert starts.count(0) > 1, "it was not preempted"
    targets = [token for part in slices for token in part.targets]
    assert targets == list(range(101, 139))


@pytest.mark.parametrize("n", [1, 3])
def test_nothing_is_written_where_no_token_is_wanted(n: int) -> None:
    loop = Loop()
    loop.run(request("r", SYSTEM, max_tokens=0, n=n))
    events = loop.of("r")
    assert len(loop.told("r")) == len(SYSTEM)
    assert events[-n - 1 : -1] == [ChoiceFinished(index, "length") for index in range(n)]
    assert not any(isinstance(event, Chunk) for event in events)
    assert isinstance(events[-1], Finished)
    assert events[-1].usage.completion_tokens == 0
    assert sum(plan.n_tokens for plan in loop.decoder.plans) == len(SYSTEM)
    assert loop.decoder.open_requests == frozenset()


@pytest.mark.parametrize("can_copy", [True, False])
def test_several_choices_have_one_telling(can_copy: bool) -> None:
    loop = Loop(replace(SCORING, can_copy=can_copy))
    loop.run(request("r", LONG, n=3))
    assert tuple(token.id for token in loop.told("r")) == LONG
    assert {event.choice for event in loop.of("r") if isinstance(event, ChoiceFinished)} == {0, 1, 2}


def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    loop = Loop()
    loop.run(request("r", (5,)))
    assert [(token.id, token.logprob) for token in loop.told("r")] == [(5, None)]
    assert not any(part.targets for part in loop.slices)


def test_a_cancelled_request_tells_no_more() -> None:
    loop = Loop()
    loop.loop.submit(request("r", LONG))
    loop.loop.step()
    loop.loop.cancel("r")
    assert not loop.loop.has_work
    loop.run(request("s", LONG))
    assert {name for name, _ in loop.events} == {"s"}


def test_a_decoder_that_can_not_score_is_not_asked_to() -> None:
    loop = Loop(ROOMY)
    with pytest.raises(UnsupportedFeatureError) as caught:
        loop.loop.submit(request("r", SYSTEM))
    assert caught.value.param == "logprobs"
    assert not loop.loop.has_work


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Slice(0, 0, (1, 2), targets=(3, 4)), "not the tokens after"),
        (Slice(0, 0, (1, 2), targets=(2, 3, 4)), "more targets than rows"),
        (Slice(0, 0, (1,) * 9, targets=(1,) * 9), "output rows"),
    ],
)
def test_the_fake_decoder_refuses_targets_that_are_none(part: Slice, words: str) -> None:
    decoder = FakeDecoder(replace(SCORING, n_outputs_max=8))
    with pytest.raises(ContractViolation, match=words):
        decoder.submit(Plan(slices=(part,)))


def test_scores_are_told_once_and_only_where_there_are_targets() -> None:
    decoder = FakeDecoder(SCORING)
    decoder.submit(Plan(slices=(Slice(0, 0, (1, 2, 3), targets=(2, 3, 4)),)))
    with pytest.raises(ContractViolation):
        decoder.scores()
    decoder.collect()
    assert list(decoder.scores()) == [0]
    with pytest.raises(ContractViolation):
        decoder.scores()
