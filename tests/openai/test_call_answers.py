"""Thoughts and calls in answers, key by key: whole, streamed, in the older form, in several choices."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.openai import ChatShape, CompletionShape, Reply, parse_completion, response_chunks, whole_response

END = Finished(Usage(10, 8, 0, reasoning_tokens=3), Timings(0.0, 1.0, 1.0))
LOGPROB = TokenLogprob("x", b"x", -0.5, (TokenAlternative("x", b"x", -0.5),))
THOUGHT = Chunk(0, "hm ", 2, region="reasoning"), Chunk(0, "so", 1, region="reasoning")
CALLS = (
    CallDelta(0, 0, "weather", '{"ci', 2),
    CallDelta(0, 0, None, 'ty": "Paris"}', 2),
    CallDelta(0, 1, "clock", "", 1),
    CallDelta(0, 2, "sum", "", 1),
    CallDelta(0, 2, None, "{}", 1),
)
ROUND = (Started(10), *THOUGHT, *CALLS, ChoiceFinished(0, "tool_calls"), END)
ID = re.compile(r"call_[0-9a-f]{24}")


@pytest.fixture
def whole(reply: Reply, script: Any, run: Any) -> Any:
    def make(*events: Any, n: int = 1, **options: Any) -> Any:
        return run(whole_response(ChatShape(reply, **options), script(*events).play(), n_choices=n))

    return make


@pytest.fixture
def chunks(reply: Reply, script: Any, gather: Any) -> Any:
    def make(*events: Any, n: int = 1, timings_per_token: bool = False, **options: Any) -> Any:
        shape = ChatShape(reply, **options)
        return gather(response_chunks(shape, script(*events).play(), n_choices=n, timings_per_token=timings_per_token))

    return make


def deltas(chunks: list[Any], index: int = 0) -> list[Any]:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return [choice["delta"] for choice in choices]


def test_whole_answer_with_calls(whole: Any) -> None:
    body = whole(*ROUND, calls="tools")
    (choice,) = body["choices"]
    message = choice["message"]
    ids = [call.pop("id") for call in message["tool_calls"]]
    assert all(ID.fullmatch(one) for one in ids)
    assert len(set(ids)) == 3
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "reasoning_content": "hm so",
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
                {"type": "function", "function": {"name": "clock", "arguments": "{}"}},
                {"type": "function", "function": {"name": "sum", "arguments": "{}"}},
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_streamed_calls_say_their_name_once(chunks: Any) -> None:
    made = chunks(*ROUND, calls="tools")
    ids = [part.pop("id") for delta in deltas(made) for part in delta.get("tool_calls", []) if "id" in part]
    assert all(ID.fullmatch(one) for one in ids)
    assert len(set(ids)) == 3

    def begin(index: int, name: str) -> Any:
        part = {"index": index, "type": "function", "function": {"name": name, "arguments": ""}}
        return {"tool_calls": [part]}

    def go_on(index: int, arguments: str) -> Any:
        return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}

    assert deltas(made) == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm "},
        {"reasoning_content": "so"},
        begin(0, "weather"),
        go_on(0, '{"ci'),
        go_on(0, 'ty": "Paris"}'),
        begin(1, "clock"),
        go_on(1, "{}"),
        begin(2, "sum"),
        go_on(2, "{}"),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in made] == [None] * 10 + ["tool_calls"]


def test_last_call_without_arguments_is_completed_before_the_finish(chunks: Any) -> None:
    made = deltas(chunks(Started(1), CallDelta(0, 0, "f"), ChoiceFinished(0, "tool_calls"), END, calls="tools"))
    assert made[-2:] == [{"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, {}]


def test_a_call_that_was_cut_off_is_left_as_it_is(whole: Any, chunks: Any) -> None:
    """Arguments that nobody wrote would make a call of what is none."""
    events = (Started(1), CallDelta(0, 0, "f"), ChoiceFinished(0, "length"), END)
    (choice,) = whole(*events, calls="tools")["choices"]
    assert (choice["message"]["tool_calls"][0]["function"]["arguments"], choice["finish_reason"]) == ("", "length")
    assert len(deltas(chunks(*events, calls="tools"))) == 3


def test_the_older_form_has_one_call(whole: Any, chunks: Any) -> None:
    (choice,) = whole(*ROUND, calls="functions")["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert "tool_calls" not in choice["message"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "function_call")
    made = chunks(*ROUND, calls="functions")
    assert deltas(made)[3:] == [
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"ci'}},
        {"function_call": {"arguments": 'ty": "Paris"}'}},
        {},
    ]
    assert made[-1]["choices"][0]["finish_reason"] == "function_call"
    bare = chunks(Started(1), CallDelta(0, 0, "f"), ChoiceFinished(0, "tool_calls"), END, calls="functions")
    assert deltas(bare)[-2:] == [{"function_call": {"arguments": "{}"}}, {}]


def test_other_reasons_are_the_same_in_the_older_form(whole: Any) -> None:
    for reason in ("stop", "length"):
        events = (Started(1), Chunk(0, "x", 1), ChoiceFinished(0, reason), END)  # type: ignore[arg-type]
        assert whole(*events, calls="functions")["choices"][0]["finish_reason"] == reason


def test_content_beside_calls_stays(whole: Any, chunks: Any) -> None:
    events = (Started(1), Chunk(0, "Let me see.", 3), CALLS[0], ChoiceFinished(0, "tool_calls"), END)
    assert whole(*events, calls="tools")["choices"][0]["message"]["content"] == "Let me see."
    assert deltas(chunks(*events, calls="tools"))[1] == {"content": "Let me see."}


def test_content_without_calls_is_never_null(whole: Any) -> None:
    for events in ((), THOUGHT):
        message = whole(Started(1), *events, ChoiceFinished(0, "stop"), END, calls="tools")["choices"][0]["message"]
        assert message["content"] == ""
        assert "tool_calls" not in message


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("reasoning_content", {"reasoning_content"}),
        ("reasoning", {"reasoning"}),
        ("both", {"reasoning_content", "reasoning"}),
        (None, set()),
    ],
)
def test_thoughts_stand_under_the_names_that_are_wanted(whole: Any, chunks: Any, field: Any, names: set[str]) -> None:
    events = (Started(1), *THOUGHT, Chunk(0, "x", 1), ChoiceFinished(0, "stop"), END)
    body = whole(*events, reasoning=field)
    message = body["choices"][0]["message"]
    assert {name: message.get(name) for name in message if "reasoning" in name} == dict.fromkeys(names, "hm so")
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    told = [dict.fromkeys(names, text) for text in ("hm ", "so")] if names else []
    assert deltas(chunks(*events, reasoning=field)) == [
        {"role": "assistant", "content": ""},
        *told,
        {"content": "x"},
        {},
    ]


def test_log_probabilities_are_those_of_the_content(whole: Any, chunks: Any) -> None:
    events = (
        Started(1),
        Chunk(0, "hm", 1, (LOGPROB,), "reasoning"),
        Chunk(0, "x", 1, (LOGPROB,)),
        CallDelta(0, 0, "f", "{}", 1, (LOGPROB,)),
        ChoiceFinished(0, "tool_calls"),
        END,
    )
    (choice,) = whole(*events, calls="tools", logprobs=True)["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["x"]
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks(*events, calls="tools", logprobs=True)]
    assert [part for part in parts if part] == [choice["logprobs"]]


def test_choices_call_side_by_side(whole: Any, chunks: Any) -> None:
    events = (
        Started(1),
        CallDelta(1, 0, "g", "", 1),
        CallDelta(0, 0, "f", '{"a":', 1),
        CallDelta(1, 1, "h", "[", 1),
        CallDelta(0, 0, None, "1}", 1),
        CallDelta(1, 1, None, "]", 1),
        ChoiceFinished(1, "tool_calls"),
        ChoiceFinished(0, "tool_calls"),
        END,
    )
    choices = whole(*events, n=2, calls="tools")["choices"]
    made = [[tuple(call["function"].values()) for call in choice["message"]["tool_calls"]] for choice in choices]
    assert made == [[("f", '{"a":1}')], [("g", "{}"), ("h", "[]")]]
    stream = chunks(*events, n=2, calls="tools")
    assert [joined(deltas(stream, index)) for index in range(2)] == made
    finishes = [choice["index"] for chunk in stream for choice in chunk["choices"] if choice["finish_reason"]]
    assert finishes == [1, 0]


def joined(parts: list[Any]) -> list[tuple[str, str]]:
    """Put streamed calls together as the official client does: by index, adding up every string."""
    calls: list[dict[str, str]] = []
    for delta in parts:
        for part in delta.get("tool_calls", []):
            assert part["index"] <= len(calls)
            if part["index"] == len(calls):
                calls.append({"id": "", "name": "", "arguments": ""})
            call = calls[part["index"]]
            call["id"] += part.get("id", "")
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    assert all(ID.fullmatch(call["id"]) for call in calls)
    return [(call["name"], call["arguments"]) for call in calls]


PIECES = st.lists(st.tuples(st.sampled_from("fgh"), st.lists(st.text(max_size=3), max_size=3)), max_size=4)


@given(PIECES)
def test_streamed_calls_add_up_to_the_whole_ones(calls: list[tuple[str, list[str]]]) -> None:
    shape = ChatShape(Reply("chatcmpl-1", 0, "demo", "fp_1"), calls="tools")
    parts: list[Any] = []
    for index, (name, pieces) in enumerate(calls):
        for position, piece in enumerate(["", *pieces]):
            parts += shape.call(CallDelta(0, index, None if position else name, piece, 1))
    parts += shape.finish(ChoiceFinished(0, "tool_calls"))
    assert joined([part["delta"] for part in parts]) == [(name, "".join(pieces) or "{}") for name, pieces in calls]
    json.dumps(parts)


def test_timings_count_thoughts_and_calls_also_where_they_are_hidden(chunks: Any) -> None:
    shown = chunks(*ROUND, calls="tools", timings_per_token=True)
    paces = [chunk["timings"]["predicted_n"] for chunk in shown[1:-1]]
    assert paces == [2, 3, 5, 5, 7, 8, 9, 9, 10]
    hidden = chunks(*ROUND, calls="tools", timings_per_token=True, reasoning=None)
    assert hidden[1]["timings"]["predicted_n"] == 5


def test_a_completion_has_no_calls(reply: Reply) -> None:
    assert CompletionShape(reply, parse_completion({"prompt": "P"})).call(CALLS[0]) == []
