"""However a reply is cut into tokens, its events say what the whole text says, and no stop string is among them."""

from __future__ import annotations

import itertools
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.chat_format import ReplyRules
from localllm.contract.generation import FinishReason
from tests.engine.answer_kit import (
    PieceTokenizer,
    answer_of,
    cut_into_pieces,
    drawn,
    end,
    events_of,
    first_stop,
    reported,
    steps,
    told,
)
from tests.engine.reply_kit import CODER, HARMONY, HERMES, KIMI, MISTRAL, THINK, TOOLS, read

MAX_EXAMPLES = 4000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 250
thorough = settings(max_examples=MAX_EXAMPLES, deadline=None)

THOUGHTS = ["<think>", "</think>\n\n", "<think>\nhm ab é\n</think>\n\n"]
CALLS = {
    "hermes": (HERMES, ['<tool_call>\n{"name": "get", "arguments": {"city": "ab é"}}\n</tool_call>', "<tool_call>"]),
    "coder": (
        CODER,
        ["<tool_call>\n<function=get>\n<parameter=city>\nab\n</parameter>\n</function>\n</tool_call>", "<function="],
    ),
    "mistral": (MISTRAL, ['[TOOL_CALLS]get[ARGS]{"city": "ab"}', "[TOOL_CALLS]", "[ARGS]"]),
    "kimi": (KIMI, ["<|calls|><|call|>functions.get:0<|args|>{}<|end_call|><|end_calls|>", "<|call|>"]),
}
CHANNELS = [
    *HARMONY.content_open,
    *HARMONY.content_close,
    "<|channel|>analysis<|message|>hm ab<|end|><|start|>assistant",
    '<|channel|>commentary to=functions.get<|channel|>json<|message|>{"city": "ab"}',
]
WORDS = ["a", "b", "é", "€", " ", "\n", "<", "ab", "stop", "STOP", "some words "]
STOPS = st.lists(st.sampled_from(["ab", "STOP", "é ", "a\n", "<t", "words s"]), max_size=2)
CUTS = st.lists(st.integers(0, 500), max_size=30)


def texts(blocks: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([*WORDS, *blocks]), max_size=9).map("".join)


@st.composite
def replies(draw: st.DrawFn) -> tuple[ReplyRules, str]:
    name = draw(st.sampled_from([*CALLS, "harmony"]))
    if name == "harmony":
        return HARMONY, draw(texts(CHANNELS))
    calls, blocks = CALLS[name]
    reply = ReplyRules(THINK, draw(st.booleans()), calls, TOOLS, parallel=draw(st.booleans()))
    return reply, draw(texts([*THOUGHTS, *blocks, *blocks[:1]]))


def expected(
    reply: ReplyRules, text: str, stops: list[str], *, include_stop: bool
) -> tuple[list[tuple[str, str]], FinishReason, str | None]:
    """What is to be told of a whole text, and how it ends."""
    out: list[tuple[str, str]] = []
    n_calls = 0
    for kind, said in read(reply, text):
        if kind == "content" and (hit := first_stop(said, stops)) is not None:
            n_used, stop = hit
            said = said[: n_used if include_stop else n_used - len(stop)]
            return [*out, *([(kind, said)] if said else [])], "tool_calls" if n_calls else "stop", stop
        if kind not in ("content", "reasoning"):
            if n_calls and not reply.parallel:
                break
            n_calls += 1
        out.append((kind, said))
    return out, "tool_calls" if n_calls else "stop", None


@thorough
@given(replies(), STOPS, CUTS, st.booleans(), st.integers(1, 4))
def test_events_say_what_the_whole_text_says(
    said: tuple[ReplyRules, str], stops: list[str], cuts: list[int], include_stop: bool, per_step: int
) -> None:
    reply, text = said
    pieces = cut_into_pieces(text.encode(), cuts)
    answer = answer_of(PieceTokenizer(pieces), reply, stops=stops, include_stop=include_stop)
    taken = steps(answer, [*drawn(range(len(pieces))), end()], per_step)
    out, reason, stop = expected(reply, text, stops, include_stop=include_stop)
    events = list(itertools.chain.from_iterable(taken))
    assert told(events) == out
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.stop) == (reason, stop)
    assert all(event.tokens or index for index, event in enumerate(events)), "held-back text has a token before it"
    n_counted = 0
    for index, step in enumerate(taken, 1):
        n_counted += sum(event.tokens for event in step)
        n_drawn = min(index * per_step, answer.n_tokens)
        assert n_counted == n_drawn if step and per_step == 1 else n_counted <= n_drawn
    assert answer.n_reasoning_tokens <= answer.n_tokens <= len(pieces)


@thorough
@given(replies(), STOPS, CUTS, st.integers(1, 40))
def test_a_limit_cuts_the_text_and_nothing_else(
    said: tuple[ReplyRules, str], stops: list[str], cuts: list[int], max_tokens: int
) -> None:
    reply, text = said
    pieces = cut_into_pieces(text.encode(), cuts)
    answer = answer_of(PieceTokenizer(pieces), reply, stops=stops, max_tokens=max_tokens)
    events = events_of(answer, [*drawn(range(len(pieces))), end()])
    cut = b"".join(pieces[:max_tokens]).decode("utf-8", "replace")
    out, reason, stop = expected(reply, cut, stops, include_stop=False)
    assert told(events) == out
    assert answer.finished is not None
    assert answer.finished.stop == stop
    is_cut_off = answer.n_tokens == max_tokens and answer.finished.reason == "length"
    assert is_cut_off or answer.finished.reason == reason


def code_points(pieces: list[bytes]) -> list[set[int]]:
    """Which code points of the text each piece has a byte of."""
    text = b"".join(pieces).decode()
    owner = [index for index, char in enumerate(text) for _ in char.encode()]
    borders = [0, *itertools.accumulate(map(len, pieces))]
    return [set(owner[start:stop]) for start, stop in itertools.pairwise(borders)]


@thorough
@given(replies(), STOPS, CUTS, st.booleans(), st.integers(1, 3))
def test_log_probabilities_are_those_of_the_content_that_came_out(
    said: tuple[ReplyRules, str], stops: list[str], cuts: list[int], include_stop: bool, per_step: int
) -> None:
    reply, text = said

    def entries(pieces: list[bytes], per_step: int) -> tuple[str, list[int]]:
        answer = answer_of(PieceTokenizer(pieces), reply, stops=stops, include_stop=include_stop, logprobs=True)
        events = events_of(answer, [*drawn(range(len(pieces))), end()], per_step)
        return "".join(said for kind, said in told(events) if kind == "content"), reported(events)

    content, places = entries([char.encode() for char in text], 1)
    assert "".join(text[place] for place in places) == content, "a token for each code point: an entry for each"
    pieces = cut_into_pieces(text.encode(), cuts)
    out = set(places)
    assert entries(pieces, per_step) == (content, [i for i, chars in enumerate(code_points(pieces)) if chars & out])
