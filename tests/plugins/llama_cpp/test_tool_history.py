"""Calls and results of earlier turns go together, whichever way a client wrote them down."""

from __future__ import annotations

import pytest

from localllm_llama_cpp.tool_history import as_thoughts, mended, one_call_each, uniform
from tests.plugins.llama_cpp.chat_kit import assistant, call, result, user


def made(call_id: str, city: str) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": "get", "arguments": {"city": city}}}


def test_the_older_form_becomes_the_present_one() -> None:
    function = {"name": "get", "arguments": '{"city": "Bonn"}'}
    rows = [
        {"role": "assistant", "content": "", "function_call": function},
        {"role": "function", "name": "get", "content": "Rain"},
    ]
    asks, answers = uniform(rows)
    assert asks == {"role": "assistant", "content": "", "tool_calls": [made("call00001", "Bonn")]}
    assert answers == {"role": "tool", "name": "get", "tool_call_id": "call00001", "content": "Rain"}
    assert "function_call" in rows[0], "what was sent is not changed"


def test_results_go_with_their_ids_else_with_their_names_else_in_order() -> None:
    rows = [
        assistant("", call("a", "x", "1"), call("b", "y", "2"), call("c", "z", "3")),
        {"role": "tool", "content": "", "name": "c"},
        {"role": "tool", "content": "", "tool_call_id": "2"},
        {"role": "tool", "content": ""},
        {"role": "tool", "content": ""},
    ]
    _, *results = uniform(rows)
    assert [(row.get("tool_call_id"), row.get("name")) for row in results] == [
        ("3", "c"),
        ("2", "b"),
        ("1", "a"),
        ("call00001", None),
    ]


@pytest.mark.parametrize("calls", [None, [], "", {}, 3, ["x"], [None]])
def test_what_is_no_call_is_none(calls: object) -> None:
    (row,) = uniform([{"role": "assistant", "content": "x", "tool_calls": calls}])
    assert row == {"role": "assistant", "content": "x"}


def test_a_call_without_anything_in_it_is_still_one() -> None:
    (row,) = uniform([{"role": "assistant", "content": "", "tool_calls": [{}, {"function": None, "id": 7}]}])
    assert [(one["id"], one["function"]) for one in row["tool_calls"]] == [
        ("call00001", {"name": "", "arguments": {}}),
        ("7", {"name": "", "arguments": {}}),
    ]


def test_ids_are_nine_letters_and_digits_and_each_its_own() -> None:
    ids = ["call_1", "call_2", "abcDEF789", "é" * 100, "\ud800", "123456789"]
    rows = uniform([assistant("", *(call("get", "x", one) for one in ids)), *(result("", one) for one in ids)])
    asks, *results = mended(rows)
    new = [one["id"] for one in asks["tool_calls"]]
    assert [row["tool_call_id"] for row in results] == new
    assert len(set(new)) == len(ids)
    assert all(len(one) == 9 and one.isascii() and one.isalnum() for one in new)
    assert (new[2], new[5]) == ("abcDEF789", "123456789")


def test_a_result_before_its_call_is_text() -> None:
    rows = mended(uniform([result("Rain", "1"), assistant("", call("get", "x", "1")), result("Sun", "1")]))
    assert rows[0] == {"role": "user", "content": "<tool_response>\nRain\n</tool_response>"}
    assert rows[2]["role"] == "tool"


def test_each_call_is_followed_by_its_result() -> None:
    rows = [
        user("?"),
        assistant("I look.", call("get", "x", "1"), call("get", "y", "2"), reasoning_content="Hm."),
        result("two", "2"),
        result("nobody's", "9"),
        result("one", "1"),
        user("and?"),
    ]
    parted = one_call_each(uniform(rows))
    assert [(row["role"], row["content"]) for row in parted] == [
        ("user", "?"),
        ("assistant", "I look."),
        ("tool", "one"),
        ("assistant", ""),
        ("tool", "two"),
        ("tool", "nobody's"),
        ("user", "and?"),
    ]
    assert [row.get("reasoning_content") for row in parted if "tool_calls" in row] == ["Hm.", None]
    assert one_call_each(parted) == parted


def test_only_words_beside_both_a_thought_and_a_call_become_thoughts() -> None:
    rows = [
        assistant("a", thinking="t"),
        assistant("b", call("get", "x")),
        assistant("", call("get", "x"), thinking="t"),
        assistant("c", call("get", "x"), thinking="t"),
    ]
    *same, last = as_thoughts(rows)
    assert same == rows[:3]
    assert (last["content"], last["thinking"], last["reasoning_content"]) == ("", "t\n\nc", "t\n\nc")
