"""What of a request is new: whatever was said, and however a client words what it sends again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import SessionConflictError
from localllm_sessions.history import count_known, link_results, split_turns

TEXTS = st.sampled_from(["", "a", "b", "yes", "yes "])
CALLS = st.lists(st.sampled_from(['{"a": 1, "b": [2]}', "", "{}", "no json"]), max_size=2)


def call(number: int, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": arguments}}


@st.composite
def exchanges(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What is said in one turn, and an answer that tells something."""
    said: list[dict[str, Any]] = [{"role": "user", "content": draw(TEXTS)}]
    calls = draw(CALLS)
    if calls:
        said.append({"role": "assistant", "content": draw(TEXTS), "tool_calls": [*map(call, range(9), calls)]})
        said += [{"role": "tool", "content": draw(TEXTS), "tool_call_id": f"call_{n}"} for n in range(len(calls))]
    return [*said, {"role": "assistant", "content": draw(TEXTS), "reasoning_content": draw(TEXTS)}]


def reworded(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as another program would send it."""
    made = {name: value for name, value in message.items() if name != "reasoning_content"}
    made["content"] = f" {made['content']}\n"
    if "tool_calls" in made:
        made["tool_calls"] = [
            {**one, "id": f"x{index}", "function": {"name": "f", "arguments": respelled(one["function"]["arguments"])}}
            for index, one in enumerate(made["tool_calls"])
        ]
    return made


def respelled(arguments: str) -> str:
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return json.dumps(dict(reversed(found.items())), indent=1)


@given(st.lists(exchanges(), min_size=1, max_size=6), exchanges(), st.data())
def test_what_was_sent_again_is_known_however_it_is_worded(
    turns: list[list[dict[str, Any]]], new: list[dict[str, Any]], data: st.DataObject
) -> None:
    stored = [message for turn in turns for message in turn]
    first = data.draw(st.integers(0, len(stored) - 1))
    question = [{"role": "user", "content": "something that was never said"}]
    sent = [*map(reworded, stored[first:]), *question]
    assert count_known(sent, stored, complete=True) == len(stored) - first


@given(st.lists(exchanges(), max_size=6), st.lists(TEXTS, min_size=1, max_size=3))
def test_questions_alone_are_always_new(turns: list[list[dict[str, Any]]], texts: list[str]) -> None:
    stored = [message for turn in turns for message in turn]
    assert count_known([{"role": "user", "content": text} for text in texts], stored, complete=True) == 0


@given(st.lists(exchanges(), min_size=1, max_size=5), st.lists(exchanges(), min_size=1, max_size=5), st.booleans())
def test_what_is_known_really_is_there(
    stored_turns: list[list[dict[str, Any]]], sent_turns: list[list[dict[str, Any]]], complete: bool
) -> None:
    stored = [message for turn in stored_turns for message in turn]
    sent = [message for turn in sent_turns for message in turn]
    try:
        n_known = count_known(sent, stored, complete=complete)
    except SessionConflictError as error:
        assert error.detail["n_same"] <= min(len(stored), len(sent))
        return
    ends = [(one["role"], one["content"].strip()) for one in stored]
    assert [(one["role"], one["content"].strip()) for one in sent[:n_known]] == ends[len(ends) - n_known :]


@given(st.lists(exchanges(), max_size=6))
def test_turns_hold_everything_in_order(turns: list[list[dict[str, Any]]]) -> None:
    messages = [message for turn in turns for message in turn]
    split = split_turns(messages)
    assert [message for turn in split for message in turn] == messages
    assert len(split) == len(turns)


@pytest.mark.parametrize(
    ("results", "ids"),
    [
        (["b", "a"], ["b", "a"]),
        (["?", "?"], ["a", "b"]),
        (["b", "?"], ["b", "a"]),
        (["?", "a", "?"], ["a", "a", "b"]),
        (["?", "?", "?"], ["a", "b", "?"]),
    ],
)
def test_results_find_their_calls(results: list[str], ids: list[str]) -> None:
    calls = [{"id": one, "function": {"name": one.upper(), "arguments": ""}} for one in ("a", "b")]
    sent = [{"role": "tool", "content": "", "tool_call_id": one} for one in results]
    _, *linked = link_results([{"role": "assistant", "content": "", "tool_calls": calls}, *sent])
    assert [one["tool_call_id"] for one in linked] == ids
    assert [one.get("name") for one in linked] == [{"a": "A", "b": "B"}.get(one) for one in ids]
