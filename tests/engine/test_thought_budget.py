"""A thought that has spent its budget is closed by the engine, and the reply goes on behind it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.chat_format import ReplyRules, ThoughtFormat
from localllm.contract.decoder import Capabilities, SequenceKey
from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, Finished, SamplingParams
from localllm.contract.wire import WorkerEvent
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoders import ByteTokenizer, EchoDecoder, FakeDecoder
from tests.engine.answer_kit import told
from tests.engine.reply_kit import HARMONY, HERMES, THINK, rules

CAPABILITIES = Capabilities(context_length=100, n_cells=900, n_seq_max=8, n_batch=16, parallel=4)
CLOSING = "\n</think>\n\n"
MAX_EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 150
OPEN = replace(rules(in_thought=True), thought_budget=3)


class Watched(FakeDecoder):
    """Remembers what was forced."""

    def __init__(self, capabilities: Capabilities = CAPABILITIES, **options) -> None:
        super().__init__(capabilities, **options)
        self.forced: list[tuple[SequenceKey, str]] = []

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        assert tokens
        self.forced.append((key, b"".join(map(ByteTokenizer().spelling, tokens)).decode()))
        super().force(key, tokens)


class WatchedEcho(EchoDecoder, Watched):
    """Writes ``answer``, whose places count what was forced too."""

    def __init__(self, answer: str) -> None:
        EchoDecoder.__init__(self, CAPABILITIES, answer=answer.encode())
        self.forced = []


def asked(reply: ReplyRules, request_id: str = "r", prompt: bytes = b"why?", **sampling) -> PreparedRequest:
    return PreparedRequest(request_id, tuple(prompt), SamplingParams(**sampling), "", True, 0.0, reply=reply)


def events_of(decoder: FakeDecoder, *requests: PreparedRequest) -> dict[str, list[WorkerEvent]]:
    loop = StepLoop(decoder, ByteTokenizer(), lambda: 0.0)
    for request in requests:
        loop.submit(request)
    events: dict[str, list[WorkerEvent]] = {request.request_id: [] for request in requests}
    while loop.has_work:
        for request_id, event in loop.step().events:
            events[request_id].append(event)
        loop.check()
    assert not decoder.open_requests
    return events


def written(events: Sequence[WorkerEvent], choice: int = 0) -> list[tuple[str, str]]:
    return told([event for event in events if isinstance(event, Chunk | CallDelta)], choice)


def usage(events: Sequence[WorkerEvent]) -> tuple[int, int]:
    assert isinstance(events[-1], Finished)
    return events[-1].usage.completion_tokens, events[-1].usage.reasoning_tokens


def test_the_thought_ends_and_content_goes_on() -> None:
    decoder = Watched(alphabet=b"abc")
    (events,) = events_of(decoder, asked(OPEN, max_tokens=30)).values()
    (_, thought), (_, content) = written(events)
    assert len(thought) == 3
    assert len(content) == 30 - 3 - len(CLOSING)
    assert decoder.forced == [(SequenceKey("r", 0), CLOSING)]
    assert usage(events) == (30, 3 + len(CLOSING))
    assert sum(event.tokens for event in events if isinstance(event, Chunk)) == 30
    assert ChoiceFinished(0, "length") in events


def test_a_budget_of_nothing_ends_the_thought_behind_the_first_token() -> None:
    events = events_of(Watched(alphabet=b"a"), asked(replace(OPEN, thought_budget=0), max_tokens=20))["r"]
    assert written(events) == [("reasoning", "a"), ("content", "a" * (20 - 1 - len(CLOSING)))]


@pytest.mark.parametrize("text", ["no thought", "<think>hm</think>So.", "<think>h</think>So <think>it goes."])
def test_thoughts_within_their_budget_are_left_alone(text: str) -> None:
    decoder = WatchedEcho(text)
    events_of(decoder, asked(replace(rules(HERMES), thought_budget=20)))
    assert not decoder.forced


def test_a_thought_that_the_model_opens_itself_counts_from_its_marker_on() -> None:
    decoder = WatchedEcho("<think>abcdef, and so on" + "x" * 20)
    events = events_of(decoder, asked(replace(rules(), thought_budget=3)))["r"]
    assert written(events)[0] == ("reasoning", "ab")
    assert decoder.forced == [(SequenceKey("r", 0), CLOSING)]


def test_each_thought_behind_a_spent_budget_is_closed_again() -> None:
    reply = replace(HARMONY, in_thought=True, thought_budget=3)
    reply = replace(reply, thought=ThoughtFormat("<|channel|>analysis<|message|>", "</thought>"))
    decoder = WatchedEcho("xxx" + "#" * len("\n</thought>\n\n") + "<|channel|>analysis<|message|>" + "y" * 40)
    events = events_of(decoder, asked(reply))["r"]
    assert len(decoder.forced) == 2
    assert written(events)[0] == ("reasoning", "xxx")


def test_a_thought_that_ends_in_half_a_marker_is_closed_once() -> None:
    decoder = WatchedEcho("ab</thi" + "x" * 40)
    events = events_of(decoder, asked(replace(OPEN, thought_budget=7)))["r"]
    assert len(decoder.forced) == 1
    assert written(events)[0] == ("reasoning", "ab</thi")


def test_a_thought_is_closed_once_while_a_call_in_it_is_still_possible() -> None:
    decoder = WatchedEcho('<tool_call>{"name": "' + "x" * 40 + '" and so on')
    reply = replace(rules(HERMES, in_thought=True), thought_budget=21)
    events = events_of(decoder, asked(reply))["r"]
    assert len(decoder.forced) == 1
    assert written(events)[0] == ("reasoning", '<tool_call>{"name": "')


def test_a_header_goes_on_behind_a_closing_that_begins_a_message() -> None:
    decoder = Watched(alphabet=b"a")
    events_of(decoder, asked(replace(HARMONY, in_thought=True, thought_budget=2), max_tokens=60))
    assert decoder.forced[0][1] == "\n<|end|><|start|>assistant"


@pytest.mark.parametrize("max_tokens", [4, 3 + len(CLOSING) - 1])
def test_a_closing_that_the_limit_would_cut_is_not_begun(max_tokens: int) -> None:
    decoder = Watched(alphabet=b"a")
    events = events_of(decoder, asked(OPEN, max_tokens=max_tokens))["r"]
    assert written(events) == [("reasoning", "a" * max_tokens)]
    assert usage(events) == (max_tokens, max_tokens)
    assert ChoiceFinished(0, "length") in events
    assert not decoder.forced


def test_a_closing_may_be_the_last_that_the_limit_allows() -> None:
    events = events_of(Watched(alphabet=b"a"), asked(OPEN, max_tokens=3 + len(CLOSING)))["r"]
    assert written(events) == [("reasoning", "aaa")]
    assert usage(events) == (3 + len(CLOSING), 3 + len(CLOSING))
    assert ChoiceFinished(0, "length") in events


def test_a_model_that_ends_in_its_thought_ends() -> None:
    decoder = WatchedEcho("hm")
    events = events_of(decoder, asked(OPEN))["r"]
    assert written(events) == [("reasoning", "hm")]
    assert ChoiceFinished(0, "stop") in events
    assert not decoder.forced


def test_a_code_point_is_finished_first() -> None:
    decoder = WatchedEcho("ab€" + "x" * 40)
    events = events_of(decoder, asked(OPEN))["r"]
    assert written(events)[0] == ("reasoning", "ab€")


def test_forced_tokens_have_no_log_probability() -> None:
    events = events_of(Watched(alphabet=b"ab"), asked(OPEN, max_tokens=20, logprobs=1))["r"]
    entries = [entry.text for event in events if isinstance(event, Chunk) for entry in event.logprobs]
    assert "".join(entries) == written(events)[1][1]


def test_stop_strings_and_calls_work_behind_a_closed_thought() -> None:
    gap = "#" * len(CLOSING)
    answer = f'hmm{gap}Yes.<tool_call>{{"name": "get", "arguments": {{}}}}</tool_call> STOP here'
    decoder = WatchedEcho(answer)
    events = events_of(decoder, asked(replace(rules(HERMES, in_thought=True), thought_budget=3), stop=("STOP",)))["r"]
    assert written(events) == [("reasoning", "hmm"), ("content", "Yes."), ("0 get", "{}"), ("content", " ")]
    assert ChoiceFinished(0, "tool_calls", "STOP") in events


def test_choices_that_run_out_of_cells_behind_a_closing_write_what_they_write_alone() -> None:
    """All of them grow by a dozen tokens at once, more than there are cells left."""
    tight = Capabilities(context_length=60, n_cells=64, n_seq_max=8, n_batch=16, parallel=4)
    roomy = replace(tight, n_cells=900)
    reply = replace(OPEN, thought_budget=8)
    requests = [asked(reply, str(index), bytes([65 + index] * 4), n=2, seed=index) for index in range(3)]
    decoder = Watched(tight, alphabet=b"abcdef")
    together = events_of(decoder, *requests)
    assert len(decoder.forced) == 6
    begun = Counter(part.tokens[0] for plan in decoder.plans for part in plan.slices if not part.start)
    assert max(begun.values()) > 1, "nothing was preempted"
    for request in requests:
        events = events_of(Watched(roomy, alphabet=b"abcdef"), request)[request.request_id]
        for choice in range(2):
            (_, thought), (_, content) = told_together = written(together[request.request_id], choice)
            assert told_together == written(events, choice)
            assert len(thought + CLOSING + content) == 60 - 4


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(
    budget=st.integers(0, 20),
    max_tokens=st.integers(1, 50),
    n=st.integers(1, 4),
    per_draw=st.integers(1, 3),
    n_batch=st.sampled_from([1, 2, 5, 64]),
    min_tokens=st.sampled_from([0, 30]),
    end_one_in=st.sampled_from([0, 20]),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_no_thought_is_longer_than_its_budget(
    budget: int,
    max_tokens: int,
    n: int,
    per_draw: int,
    n_batch: int,
    min_tokens: int,
    end_one_in: int,
    temperature: float,
) -> None:
    reply = ReplyRules(THINK, in_thought=True, thought_budget=budget)
    capabilities = replace(CAPABILITIES, n_batch=n_batch)
    decoder = Watched(capabilities, alphabet="abé".encode(), end_one_in=end_one_in, tokens_per_draw=per_draw)
    sampling = {"max_tokens": max_tokens, "n": n, "min_tokens": min_tokens, "temperature": temperature, "seed": 1}
    events = events_of(decoder, asked(reply, **sampling))["r"]
    n_over = per_draw - 1 + 4  # all that a step draws is written, and a code point is finished
    for choice in range(n):
        thought, *content = written(events, choice) or [("reasoning", "")]
        n_thought = len(thought[1].replace("\ufffd", "?").encode())
        is_forced = (SequenceKey("r", choice), CLOSING) in decoder.forced
        assert n_thought <= budget + n_over + 1 + (0 if is_forced else len(CLOSING))
        assert is_forced or not content
    completion_tokens, reasoning_tokens = usage(events)
    assert len(decoder.forced) * (budget + len(CLOSING)) <= reasoning_tokens <= completion_tokens <= n * max_tokens
    if not end_one_in:
        assert completion_tokens == n * max_tokens
        assert max_tokens <= budget + n_over + 1 + len(CLOSING) or len(decoder.forced) == n
        assert reasoning_tokens <= n * (budget + n_over + 1 + len(CLOSING))
