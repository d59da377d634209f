"""What comes out of the step loop for one request: which events, in which order, with which counts and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from localllm.contract.decoder import Capabilities
from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    SamplingParams,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.contract.wire import WorkerEvent
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoders import ByteTokenizer, CrashingDecoder, EchoDecoder, FakeDecoder

CAPABILITIES = Capabilities(context_length=64, n_cells=512, n_seq_max=8, n_batch=16, parallel=4)


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TimedDecoder(FakeDecoder):
    """Each step takes half a second."""

    clock: Clock

    def collect(self):
        self.clock.now += 0.5
        return super().collect()


def asked(
    prompt: bytes,
    request_id: str = "r",
    *,
    owner: str = "",
    cache_prompt: bool = True,
    queued_at: float = 100.0,
    **sampling,
) -> PreparedRequest:
    return PreparedRequest(request_id, tuple(prompt), SamplingParams(**sampling), owner, cache_prompt, queued_at)


def loop_of(decoder) -> StepLoop:
    return StepLoop(decoder, ByteTokenizer(), Clock())


def run(loop: StepLoop) -> list[tuple[str, WorkerEvent]]:
    events: list[tuple[str, WorkerEvent]] = []
    while loop.has_work:
        events += loop.step().events
        loop.check()
    return events


def events_of(request: PreparedRequest, decoder) -> list[WorkerEvent]:
    loop = loop_of(decoder)
    loop.submit(request)
    events = run(loop)
    assert {request_id for request_id, _ in events} == {request.request_id}
    return [happened for _, happened in events]


def text_of(events: Sequence[WorkerEvent], choice: int = 0) -> str:
    return "".join(happened.text for happened in events if isinstance(happened, Chunk) and happened.choice == choice)


def test_an_echo_from_beginning_to_end() -> None:
    started, *chunks, ended, finished = events_of(asked("hé!".encode()), EchoDecoder(CAPABILITIES))
    assert started == Started(prompt_tokens=4)
    # The two bytes of é are one chunk; the token that means "end" is not counted.
    assert chunks == [Chunk(0, "h", 1), Chunk(0, "é", 2), Chunk(0, "!", 1)]
    assert ended == ChoiceFinished(0, "stop", None)
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(prompt_tokens=4, completion_tokens=4, cached_tokens=0)


def test_the_limit_ends_an_answer() -> None:
    events = events_of(asked(b"abcdef", max_tokens=3), EchoDecoder(CAPABILITIES))
    assert text_of(events) == "abc"
    assert events[-2] == ChoiceFinished(0, "length", None)
    assert events[-1].usage.completion_tokens == 3


def test_the_context_ends_an_answer() -> None:
    events = events_of(asked(b"x" * 40), FakeDecoder(CAPABILITIES))
    assert len(text_of(events)) == CAPABILITIES.context_length - 40
    assert events[-2] == ChoiceFinished(0, "length", None)


def test_half_a_code_point_at_the_limit_is_replaced() -> None:
    events = events_of(asked("aé".encode(), max_tokens=2), EchoDecoder(CAPABILITIES))
    assert text_of(events) == "a�"


def test_no_tokens_asked_for_is_answered_without_a_step() -> None:
    decoder = EchoDecoder(CAPABILITIES)
    events = events_of(asked(b"abc", max_tokens=0, n=2), decoder)
    assert events == [
        Started(3),
        ChoiceFinished(0, "length"),
        ChoiceFinished(1, "length"),
        Finished(Usage(3, 0, 0), Timings(0, 0, 0)),
    ]
    assert not decoder.plans


def test_a_stop_string_across_tokens_ends_an_answer() -> None:
    events = events_of(asked(b"one<stop>two", stop=("<stop>",)), EchoDecoder(CAPABILITIES))
    assert text_of(events) == "one"
    assert events[-2] == ChoiceFinished(0, "stop", "<stop>")
    assert events[-1].usage.completion_tokens == len("one<stop>")


def test_a_stop_string_is_part_of_the_answer_when_asked_for() -> None:
    events = events_of(asked(b"one<stop>two", stop=("<stop>",), include_stop=True), EchoDecoder(CAPABILITIES))
    assert text_of(events) == "one<stop>"


def test_text_that_was_no_stop_string_after_all_is_let_go() -> None:
    events = events_of(asked(b"a<sto", stop=("<stop>",)), EchoDecoder(CAPABILITIES))
    assert [(event.text, event.tokens) for event in events if isinstance(event, Chunk)] == [("a", 1), ("<sto", 4)]


def test_log_probabilities_name_tokens_and_alternatives() -> None:
    events = events_of(asked(b"hi", max_tokens=1, logprobs=2), EchoDecoder(CAPABILITIES))
    (chunk,) = (event for event in events if isinstance(event, Chunk))
    assert chunk.logprobs == (
        TokenLogprob("h", b"h", -0.5, (TokenAlternative("h", b"h", -0.5), TokenAlternative("a", b"a", -1.5))),
    )


def test_no_log_probabilities_unless_asked_for() -> None:
    events = events_of(asked(b"hi"), EchoDecoder(CAPABILITIES))
    assert all(not event.logprobs for event in events if isinstance(event, Chunk))


def test_log_probabilities_end_where_the_stop_string_begins() -> None:
    events = events_of(asked(b"one<stop>two", stop=("<stop>",), logprobs=0), EchoDecoder(CAPABILITIES))
    entries = [entry.bytes for event in events if isinstance(event, Chunk) for entry in event.logprobs]
    assert b"".join(entries) == b"one"


def test_several_tokens_of_one_step_are_one_chunk_and_end_where_the_answer_ends() -> None:
    class ManyAtOnce(EchoDecoder):
        def __init__(self) -> None:
            super().__init__(CAPABILITIES)
            self._tokens_per_draw = 5

    events = events_of(asked(b"abc|defgh|ijk", stop=("|i",)), ManyAtOnce())
    assert [event.text for event in events if isinstance(event, Chunk)] == ["abc|d", "efgh"]
    assert events[-1].usage.completion_tokens == len("abc|defgh|i")
    events = events_of(asked(b"abcdefgh", max_tokens=7), ManyAtOnce())
    assert [event.text for event in events if isinstance(event, Chunk)] == ["abcde", "fg"]


def test_each_choice_has_its_own_events_and_all_share_the_end() -> None:
    events = events_of(asked(b"some prompt", n=3, seed=1, max_tokens=5), FakeDecoder(CAPABILITIES))
    assert [event.choice for event in events if isinstance(event, ChoiceFinished)] == [0, 1, 2]
    assert len({text_of(events, choice) for choice in range(3)}) == 3
    assert events[-1].usage == Usage(prompt_tokens=11, completion_tokens=15, cached_tokens=0)


def test_times_are_those_of_the_clock() -> None:
    decoder = TimedDecoder(replace(CAPABILITIES, parallel=1))
    decoder.clock = clock = Clock()
    loop = StepLoop(decoder, ByteTokenizer(), clock)
    loop.submit(asked(b"x" * 32, "first", max_tokens=3))
    loop.submit(asked(b"y", "second", max_tokens=1, queued_at=99.0))
    finished = {request_id: event for request_id, event in run(loop) if isinstance(event, Finished)}
    # Two steps for 32 tokens in batches of 16, and the second of them draws the first token.
    assert finished["first"].timings == Timings(queue_ms=0, prompt_ms=1000, predicted_ms=1000)
    assert finished["second"].timings == Timings(queue_ms=3000, prompt_ms=500, predicted_ms=0)


def test_cached_tokens_are_counted_for_the_prompt_only() -> None:
    loop = loop_of(FakeDecoder(CAPABILITIES))
    loop.submit(asked(b"the same prompt", "first", max_tokens=4))
    run(loop)
    loop.submit(asked(b"the same prompt", "second", n=2, max_tokens=4))
    assert run(loop)[-1][1].usage == Usage(prompt_tokens=15, completion_tokens=8, cached_tokens=14)
    loop.submit(asked(b"the same prompt", "third", max_tokens=4, cache_prompt=False))
    assert run(loop)[-1][1].usage.cached_tokens == 0


def test_prefilled_tokens_are_counted() -> None:
    loop = loop_of(FakeDecoder(CAPABILITIES))
    loop.submit(asked(b"x" * 20, max_tokens=4))
    counts = []
    while loop.has_work:
        counts.append(loop.step().prefilled_tokens)
    assert counts == [16, 4, 0, 0, 0]


@pytest.mark.parametrize("n_steps", [0, 1, 3])
def test_nothing_comes_out_for_a_request_that_was_cancelled(n_steps: int) -> None:
    decoder = FakeDecoder(CAPABILITIES)
    loop = loop_of(decoder)
    loop.submit(asked(b"x" * 20, "left", n=2))
    loop.submit(asked(b"other", "stays", max_tokens=8))
    for _ in range(n_steps):
        loop.step()
    loop.cancel("left")
    loop.cancel("left")
    loop.cancel("never seen")
    assert {request_id for request_id, _ in run(loop)} == {"stays"}
    assert decoder.open_requests == frozenset()


def test_an_id_can_be_used_again_when_its_request_is_over() -> None:
    loop = loop_of(EchoDecoder(CAPABILITIES))
    for _ in range(2):
        loop.submit(asked(b"hi"))
        with pytest.raises(InvalidRequestError, match="in use"):
            loop.submit(asked(b"hi"))
        assert isinstance(run(loop)[-1][1], Finished)


def test_a_prompt_as_long_as_the_context_is_refused() -> None:
    loop = loop_of(FakeDecoder(CAPABILITIES))
    with pytest.raises(ContextLengthExceededError) as refused:
        loop.submit(asked(b"x" * 64))
    assert refused.value.detail == {"n_prompt_tokens": 64, "n_ctx": 64}
    loop.submit(asked(b"x" * 63))
    assert run(loop)[-1][1].usage.completion_tokens == 1


@pytest.mark.parametrize("request_", [asked(b""), asked(b"x", n=0)])
def test_requests_that_cannot_be_answered_are_refused(request_: PreparedRequest) -> None:
    loop = loop_of(FakeDecoder(CAPABILITIES))
    with pytest.raises(InvalidRequestError):
        loop.submit(request_)
    assert not loop.has_work


def test_what_the_decoder_refuses_is_not_queued() -> None:
    class Picky(FakeDecoder):
        def open(self, request_id, sampling, prompt) -> None:
            raise InvalidRequestError("No such token.", param="logit_bias")

    loop = loop_of(Picky(CAPABILITIES))
    with pytest.raises(InvalidRequestError):
        loop.submit(asked(b"x"))
    assert not loop.has_work
    loop.cancel("r")


def test_a_fault_of_the_decoder_comes_out() -> None:
    def crash() -> None:
        raise RuntimeError("llama_decode returned -1")

    loop = loop_of(CrashingDecoder(FakeDecoder(CAPABILITIES), 2, crash))
    loop.submit(asked(b"x"))
    loop.step()
    loop.step()
    with pytest.raises(RuntimeError, match="llama_decode"):
        loop.step()


def test_events_can_be_taken_before_a_step_blocks() -> None:
    loop = loop_of(FakeDecoder(CAPABILITIES))
    loop.submit(asked(b"x", max_tokens=1))
    assert loop.take_events() == (("r", Started(1)),)
    assert [type(event) for _, event in loop.step().events] == [Chunk, ChoiceFinished, Finished]
    assert loop.step().events == ()


def test_answers_keep_their_pace_while_a_long_prompt_arrives() -> None:
    """Once speed is known, a step with answers in it carries what the wanted step time allows, not a whole batch."""
    capabilities = replace(CAPABILITIES, context_length=2000, n_cells=16_000, n_batch=512, step_seconds=0.2)

    class Machine(FakeDecoder):
        """1,000 tokens a second."""

        clock = Clock()

        def collect(self):
            self.clock.now += self.plans[-1].n_tokens / 1000
            return super().collect()

    decoder = Machine(capabilities)
    loop = StepLoop(decoder, ByteTokenizer(), decoder.clock)
    loop.submit(asked(b"a" * 500, "writing", max_tokens=60))
    loop.step()
    loop.submit(asked(b"b" * 1900, "long", max_tokens=1))
    longest = 0.0
    while loop.has_work:
        before = decoder.clock.now
        loop.step()
        longest = max(longest, decoder.clock.now - before)
    assert longest <= 0.21
    assert len([plan for plan in decoder.plans if len(plan.slices) == 2]) <= 11, "the prompt is read at full speed"
