"""Calls, their results and thoughts in the history, as clients and models really send them."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, LocalLLMError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt
from localllm.openai import parse_chat

HELLO = {"role": "user", "content": "Hello"}


def plain(*messages: Any) -> tuple[Any, ...]:
    prompt = parse_chat({"messages": [HELLO, *messages]}).generate_request().prompt
    assert isinstance(prompt, ChatPrompt)
    return tuple(prompt.messages[1:])


def call(name: str, arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def assistant(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **fields}


def test_a_round_of_calls_goes_on_as_it_is() -> None:
    made = assistant(call("f", '{"a": 1}', id="call_a"), call("g", id="call_b"), content="Let me see.")
    results = [
        {"role": "tool", "tool_call_id": "call_b", "content": "two", "name": "g"},
        {"role": "tool", "tool_call_id": "call_a", "content": "one", "name": "f"},
    ]
    assert plain(made, *results) == (made, *results)


def test_content_is_text_also_beside_calls() -> None:
    for content in ({}, {"content": None}, {"content": ""}, {"content": []}):
        assert plain(assistant(call("f", id="x"), **content))[0]["content"] == ""
    parts = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
    assert plain({"role": "tool", "tool_call_id": "x", "content": parts})[0]["content"] == "12"
    assert plain({"role": "tool", "tool_call_id": "x", "content": None})[0]["content"] == ""


@pytest.mark.parametrize("arguments", ["", "{", '{"a": ', "null", "[1]", "not JSON", '{"a": 1}  ', "\u00e9\n\t"])
def test_arguments_stay_as_they_were_sent(arguments: str) -> None:
    assert plain(assistant(call("f", arguments)))[0]["tool_calls"][0]["function"]["arguments"] == arguments


def test_arguments_may_be_an_object_or_missing() -> None:
    (message,) = plain(assistant(call("f", {"b": [1, "é"], "a": None}), {"function": {"name": "g"}}, call("h", None)))
    assert [one["function"]["arguments"] for one in message["tool_calls"]] == ['{"b":[1,"é"],"a":null}', "{}", "{}"]


def test_missing_ids_are_made_up_and_results_find_their_calls() -> None:
    round_of_two = (assistant(call("f"), call("g", id=None), call("h", id="")), {"role": "tool"}, {"role": "tool"})
    first, one, two, second, three = plain(*round_of_two, assistant(call("k")), {"role": "tool", "content": "x"})
    assert [made["id"] for made in first["tool_calls"]] == ["call_1_0", "call_1_1", "call_1_2"]
    assert one == {"role": "tool", "content": "", "tool_call_id": "call_1_0", "name": "f"}
    assert two == {"role": "tool", "content": "", "tool_call_id": "call_1_1", "name": "g"}
    assert second["tool_calls"][0]["id"] == three["tool_call_id"] == "call_4_0"


def test_a_result_without_an_id_answers_the_first_call_that_is_not_answered() -> None:
    made = assistant(call("f", id="a"), call("g", id="b"))
    _, given, found, extra = plain(made, {"role": "tool", "tool_call_id": "a"}, {"role": "tool"}, {"role": "tool"})
    assert (given["tool_call_id"], found["tool_call_id"], extra["tool_call_id"]) == ("a", "b", "call_4")
    assert "name" not in extra


def test_a_result_without_an_id_answers_the_call_of_the_function_that_it_names() -> None:
    results = [{"role": "tool", "name": name, "content": name} for name in ("g", "other", "f", "g")]
    found = plain(assistant(call("f", id="a"), call("g", id="b"), call("g", id="c")), *results)[1:]
    assert [result["tool_call_id"] for result in found] == ["b", "a", "c", "call_5"]
    assert [result["name"] for result in found] == ["g", "other", "f", "g"]


@pytest.mark.parametrize(("sent", "read"), [(7, "7"), (-1, "-1"), (1.5, "1.5"), ("7", "7"), (2**62, str(2**62))])
def test_ids_may_be_numbers(sent: Any, read: str) -> None:
    made, result = plain(assistant(call("f", id=sent)), {"role": "tool", "tool_call_id": sent, "content": "x"})
    assert made["tool_calls"][0]["id"] == result["tool_call_id"] == read
    assert result["name"] == "f"


def test_ids_may_be_repeated_and_results_may_answer_nothing() -> None:
    same = assistant(call("f", id="x"), call("g", id="x"))
    answers = [{"role": "tool", "tool_call_id": name, "content": ""} for name in ("x", "x", "unknown")]
    found = plain(same, *answers, same, answers[0])
    assert [message.get("tool_call_id") for message in found] == [None, "x", "x", "unknown", None, "x"]


def test_the_older_form_becomes_the_newer() -> None:
    made = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert plain(made, {"role": "function", "name": "f", "content": "5"}) == (
        {"role": "assistant", "content": "", "tool_calls": [call("f", id="call_1_0")]},
        {"role": "tool", "content": "5", "tool_call_id": "call_1_0", "name": "f"},
    )
    assert plain({"role": "function", "name": "f", "content": "5"})[0]["tool_call_id"] == "call_1"


@pytest.mark.parametrize("nothing", [None, [], {}, "", False])
def test_no_calls_are_no_calls(nothing: Any) -> None:
    for role in ("user", "assistant", "tool"):
        message = {"role": role, "content": "x", "tool_calls": nothing, "function_call": nothing}
        assert "tool_calls" not in plain(message)[0]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_three_names(name: str) -> None:
    expected = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    nothing = dict.fromkeys(("reasoning_content", "reasoning", "thinking"))
    assert plain({"role": "assistant", "content": "x", **nothing, name: "hm"}) == (expected,)
    assert plain({"role": "assistant", "content": "x", name: [{"type": "text", "text": "hm"}]}) == (expected,)
    for empty in ("", [], False):
        assert "reasoning_content" not in plain({"role": "assistant", "content": "x", name: empty})[0]
    assert plain({"role": "user", "content": "x", name: "hm"}) == ({"role": "user", "content": "x"},)


def test_thoughts_among_the_parts_of_content() -> None:
    parts = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "text", "text": "x"},
        {"type": "reasoning", "text": "b"},
        {"type": "reasoning", "reasoning": "c"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "d"}]},
    ]
    expected = {"role": "assistant", "content": "x", "reasoning_content": "abcd"}
    assert plain({"role": "assistant", "content": parts}) == (expected,)
    assert plain({"role": "assistant", "content": parts, "reasoning": "e"})[0]["reasoning_content"] == "e"


def test_names_go_on() -> None:
    assert plain({**HELLO, "name": "Ann"}) == ({**HELLO, "name": "Ann"},)
    assert plain({**HELLO, "name": None}) == (HELLO,)


@pytest.mark.parametrize(
    ("message", "at"),
    [
        (assistant(5), "tool_calls[0]"),
        ({"role": "assistant", "tool_calls": 5}, "tool_calls"),
        ({"role": "assistant", "tool_calls": 0}, "tool_calls"),
        ({"role": "assistant", "tool_calls": {"id": "x"}}, "tool_calls"),
        (assistant(*[call("f")] * 129), "tool_calls"),
        (assistant({}), "tool_calls[0].function"),
        (assistant({"id": [], "function": {}}), "tool_calls[0].id"),
        (assistant(call("f"), call("f", id={})), "tool_calls[1].id"),
        (assistant(call("f", id=True)), "tool_calls[0].id"),
        (assistant(call("f", id=10**5000)), "tool_calls[0].id"),
        (assistant({"type": 5, "function": {"name": "f"}}), "tool_calls[0].type"),
        (assistant({"function": "f"}), "tool_calls[0].function"),
        (assistant({"function": {"arguments": "{}"}}), "tool_calls[0].function.name"),
        (assistant(call(5)), "tool_calls[0].function.name"),  # type: ignore[arg-type]
        (assistant(call("\ud800")), "tool_calls[0].function.name"),
        (assistant(call("f", 5)), "tool_calls[0].function.arguments"),
        (assistant(call("f", [])), "tool_calls[0].function.arguments"),
        (assistant(call("f", "\ud800")), "tool_calls[0].function.arguments"),
        (assistant(call("f", {"a": "\ud800"})), "tool_calls[0].function.arguments"),
        ({"role": "user", "content": "x", "tool_calls": [call("f")]}, "tool_calls"),
        ({"role": "tool", "content": "x", "tool_calls": [call("f")]}, "tool_calls"),
        ({"role": "user", "content": "x", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "assistant", "function_call": 5}, "function_call"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, "function_call.name"),
        (assistant(call("f"), function_call={"name": "f"}), "function_call"),
        ({"role": "tool", "tool_call_id": {}, "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "x", "content": {"a": 1}}, "content"),
        ({"role": "tool", "tool_call_id": "x", "content": [{"type": "thinking", "thinking": "x"}]}, "content"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}, "content"),
        ({"role": "assistant", "content": [{"type": "thinking"}]}, "content[0].text"),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": 5}]}, "content[0].thinking"),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": [5]}]}, "content[0].thinking[0].text"),
        ({"role": "assistant", "reasoning_content": 5}, "reasoning_content"),
        ({"role": "assistant", "reasoning": {"text": "x"}}, "reasoning"),
        ({"role": "assistant", "thinking": [{"type": "text"}]}, "thinking[0].text"),
        ({"role": "user", "content": "x", "name": 5}, "name"),
        ({"role": "user", "content": "x", "name": "x" * 257}, "name"),
    ],
)
def test_what_is_wrong_is_named_by_path(message: dict[str, Any], at: str) -> None:
    with pytest.raises(LocalLLMError) as caught:
        plain(message)
    assert type(caught.value) is InvalidRequestError
    assert caught.value.param == f"messages[1].{at}"
    assert caught.value.message.startswith(f"messages[1].{at} ")
    assert len(caught.value.message) < 200


def test_calls_of_other_kinds_are_refused_by_their_type() -> None:
    with pytest.raises(UnsupportedFeatureError) as caught:
        plain(assistant({"id": "x", "type": "custom", "custom": {"name": "f", "input": "x"}}))
    assert caught.value.param == "messages[1].tool_calls[0].type"
    assert '"custom"' in caught.value.message
