"""Input items of every kind that clients send, and the conversation that the model is shown of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.openai.responses import (
    drop_oldest,
    item_list,
    new_item_id,
    parse_more_items,
    parse_response,
    to_messages,
    with_ids,
)
from tests.openai.responses.wire_spec import check_items

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"x": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "2"}
USER = {"role": "user", "content": "Hi"}


def items(value: Any) -> tuple[Any, ...]:
    return parse_response({"input": value}).input.items


def messages(value: Any) -> list[dict[str, Any]]:
    return [dict(message) for message in to_messages(items(value))]


def refused(value: Any) -> InvalidRequestError | UnsupportedFeatureError:
    with pytest.raises((InvalidRequestError, UnsupportedFeatureError)) as caught:
        parse_response({"input": value})
    return caught.value


def test_a_string_is_a_message_of_the_user() -> None:
    assert messages("Hi") == [USER]
    assert items("Hi") == items([USER]) == items([{"type": "message", **USER}])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ([{"type": "input_text", "text": "H"}, {"type": "input_text", "text": "i"}], "Hi"),
        ([{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": None}], "Hi"),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_contents_of_messages(role: str, content: Any, text: str) -> None:
    item = {"role": role, "content": content, "id": None, "status": None, "phase": "final_answer"}
    assert messages([item]) == [{"role": role, "content": text}]


def test_a_refusal_is_what_the_assistant_said() -> None:
    part = {"type": "refusal", "refusal": "No."}
    assert messages([{"role": "assistant", "content": [part]}]) == [{"role": "assistant", "content": "No."}]
    assert items([{"role": "assistant", "content": [part]}])[0]["content"] == [part]


def test_an_answer_may_come_back_without_a_content() -> None:
    assert messages([{"type": "message", "role": "assistant", "content": None}, USER])[0]["content"] == ""
    assert refused([{"role": "user", "content": None}]).param == "input[0].content"


@pytest.mark.parametrize("kind", ["input_image", "input_file", "input_audio"])
def test_what_is_no_text_is_refused_by_its_name(kind: str) -> None:
    error = refused([USER, {"role": "user", "content": [{"type": "input_text", "text": "?"}, {"type": kind}]}])
    assert isinstance(error, UnsupportedFeatureError)
    assert error.param == "input[1].content[1]"
    assert kind in error.message
    output = {**OUTPUT, "output": [{"type": kind, "image_url": "x"}]}
    assert refused([CALL, output]).param == "input[1].output[0]"


def test_a_round_of_tools() -> None:
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    second = {**CALL, "call_id": "call_2", "name": "g", "arguments": "{}", "id": "fc_9", "status": "completed"}
    said = [{**OUTPUT, "output": [{"type": "input_text", "text": "2"}]}, {**OUTPUT, "call_id": "call_2"}]
    assert messages([USER, answer, CALL, second, *said, USER]) == [
        USER,
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "f"},
        {"role": "tool", "content": "2", "tool_call_id": "call_2", "name": "g"},
        USER,
    ]


def test_calls_of_two_turns_stay_apart() -> None:
    found = messages([USER, CALL, OUTPUT, {**CALL, "call_id": "call_2"}, {**OUTPUT, "call_id": "call_2"}])
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [len(message["tool_calls"]) for message in found if message["role"] == "assistant"] == [1, 1]


def test_a_result_without_its_call_is_shown_all_the_same() -> None:
    assert messages([OUTPUT, USER])[0] == {"role": "tool", "content": "2", "tool_call_id": "call_1"}


def test_arguments_that_are_an_object_are_read() -> None:
    assert items([{**CALL, "arguments": {"x": 1}}])[0]["arguments"] == '{"x":1}'
    assert items([{**CALL, "arguments": '{"x": '}])[0]["arguments"] == '{"x": ', "models do write such"


def test_thoughts_belong_to_what_follows_them() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    told = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}], "encrypted_content": "xyz"}
    found = messages([USER, thought, CALL, OUTPUT, told, {"role": "assistant", "content": "2"}, thought])
    assert [message.get("reasoning_content") for message in found] == [None, "Hm", None, "So"]
    assert found[1]["tool_calls"]
    assert messages([USER, {"type": "reasoning", "summary": None}, CALL])[1].get("reasoning_content") is None


@pytest.mark.parametrize("kind", ["web_search_call", "mcp_list_tools", "local_shell_call", "custom_tool_call_output"])
def test_what_other_services_tools_left_is_left_out_with_a_warning(kind: str) -> None:
    request = parse_response({"input": [USER, {"type": kind, "id": "x"}, {"type": kind}]})
    assert to_messages(request.input.items) == (USER,)
    [warning] = request.warnings()
    assert kind in warning


def test_nothing_but_what_is_left_out_is_no_input() -> None:
    request = parse_response({"input": [{"type": "web_search_call"}]})
    with pytest.raises(InvalidRequestError) as caught:
        request.generate_request(request.input.items)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (5, "input[0]"),
        ({}, "input[0].type"),
        ({"type": "unheard_of"}, "input[0].type"),
        ({"type": 5}, "input[0].type"),
        ({"type": "message"}, "input[0].role"),
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"role": {}, "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({"role": "user", "content": [5]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"text": "x"}]}, "input[0].content[0].type"),
        ({**CALL, "call_id": None}, "input[0].call_id"),
        ({**CALL, "name": ""}, "input[0].name"),
        ({**CALL, "arguments": 5}, "input[0].arguments"),
        ({**OUTPUT, "output": None}, "input[0].output"),
        ({**OUTPUT, "output": [{}]}, "input[0].output[0].type"),
        ({"type": "reasoning", "summary": "x"}, "input[0].summary"),
        ({"type": "reasoning", "content": [{}]}, "input[0].content[0]"),
        ({"type": "item_reference"}, "input[0].id"),
        ({"type": "item_reference", "id": "x" * 600}, "input[0].id"),
    ],
)
def test_what_is_wrong_is_named(item: Any, param: str) -> None:
    error = refused([item])
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize("value", [{}, 5, True, [USER] * 2049])
def test_what_is_no_input(value: Any) -> None:
    assert refused(value).param == "input"


def test_references_may_be_told_by_their_ids_alone() -> None:
    assert items([{"id": "msg_1"}]) == items([{"type": "item_reference", "id": "msg_1"}])


def test_items_are_listed_as_the_client_expects_them() -> None:
    value = [USER, {"role": "assistant", "content": "Yes"}, CALL, OUTPUT, {"type": "reasoning", "summary": []}]
    read = parse_more_items({"items": value}).items.items
    kept = with_ids(read, lambda kind, _: new_item_id(kind))
    assert len(check_items(item_list(kept))) == 5
    assert [item["id"].partition("_")[0] for item in kept] == ["msg", "msg", "fc", "fco", "rs"]
    assert to_messages(kept) == to_messages(read)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KINDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "item_reference", "web_search_call", "x", None]
)
FIELDS = ["role", "content", "call_id", "name", "arguments", "output", "summary", "id", "status"]
ANY_ITEM = st.builds(
    lambda kind, fields: {"type": kind, **fields}, KINDS, st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)
)


@given(st.lists(ANY_ITEM, min_size=1, max_size=3))
def test_any_item_is_read_or_refused_with_its_place(value: list[Any]) -> None:
    try:
        read = parse_response({"input": value}).input.items
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert error.param.startswith("input[")
        return
    to_messages([item for item in read if item["type"] != "item_reference"])


SOUND = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text},
        st.sampled_from(["user", "assistant", "system"]),
        st.text(max_size=9),
    ),
    st.builds(lambda n: {**CALL, "call_id": f"call_{n}"}, st.integers(0, 3)),
    st.builds(lambda n: {**OUTPUT, "call_id": f"call_{n}"}, st.integers(0, 3)),
    st.just({"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}),
)


@given(st.lists(SOUND, min_size=1, max_size=12))
def test_no_text_and_no_call_is_lost(value: list[dict[str, Any]]) -> None:
    found = messages(value)
    said = [item["content"] for item in value if "role" in item]
    assert "".join(message["content"] for message in found if message["role"] != "tool") == "".join(said)
    n_calls = sum(item.get("type") == "function_call" for item in value)
    assert sum(len(message.get("tool_calls", ())) for message in found) == n_calls
    assert sum(message["role"] == "tool" for message in found) == sum("output" in item for item in value)


# --- when it is too long ----------------------------------------------------------------------------------------------


def turn(n: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"question {n} " * 10}, {"role": "assistant", "content": f"answer {n} " * 10}]


def test_the_oldest_are_dropped_and_instructions_stay() -> None:
    system = {"role": "system", "content": "Be brief."}
    last = {"role": "user", "content": "Now?"}
    said = [system, *turn(1), *turn(2), *turn(3), last]
    assert drop_oldest(said, keep_share=0.5) == (system, *turn(3), last)
    assert drop_oldest(said, keep_share=1.0) == (system, *turn(2), *turn(3), last)
    assert drop_oldest(said, keep_share=0.0) == (system, last)
    assert drop_oldest([system, last], keep_share=0.5) is None
    assert drop_oldest([system], keep_share=0.5) is None


def test_a_result_goes_with_its_call() -> None:
    tools = messages([USER, CALL, OUTPUT, {"role": "assistant", "content": "2"}, USER, CALL, OUTPUT])
    left = drop_oldest(tools, keep_share=0.9)
    assert left is not None
    assert [message["role"] for message in left] == ["user", "assistant", "tool"]
    assert drop_oldest(left, keep_share=0.1) is None, "a question is not parted from what was done about it"


@given(st.lists(SOUND, min_size=1, max_size=12).map(messages), st.floats(0, 1, allow_nan=False))
def test_dropping_comes_to_an_end(said: list[dict[str, Any]], share: float) -> None:
    left = drop_oldest(said, keep_share=share)
    if left is not None:
        assert 0 < len(left) < len(said)
        assert left[-1] == said[-1]
