"""Whatever conversation a client makes up: a prompt of sound messages, or one typed error that names the place."""

from __future__ import annotations

import os
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt
from localllm.openai import parse_chat

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 200
ODD = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(["", "x", [], {}, [None], {"a": 1}])
)
TEXT = st.text(max_size=8)


def mostly(sound: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """All but one of forty values are sound, so that conversations get past the first check."""
    return st.integers(0, 39).flatmap(lambda draw: ODD if draw == 39 else sound)


def record(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    fields = {name: mostly(sound) for name, sound in required.items()}
    return mostly(st.fixed_dictionaries(fields, optional={name: mostly(sound) for name, sound in optional.items()}))


ARGUMENTS = TEXT | st.sampled_from(["{}", '{"a": ', "[1]", "null"]) | st.dictionaries(TEXT, ODD, max_size=2)
FUNCTION = record({"name": TEXT}, {"arguments": ARGUMENTS})
IDS = TEXT | st.integers() | st.sampled_from(["call_1", "call_1", 7])
CALL = record({"function": FUNCTION}, {"id": IDS, "type": st.just("function")})
TEXT_PART = record({"type": st.just("text"), "text": TEXT}, {})
THOUGHT_PART = record({"type": st.sampled_from(["thinking", "reasoning"])}, {"thinking": TEXT, "text": TEXT})
CONTENT = TEXT | st.lists(TEXT_PART | THOUGHT_PART, max_size=3)
THOUGHTS = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), CONTENT)
MESSAGE = st.one_of(
    record({"role": st.sampled_from(["system", "developer", "user"]), "content": CONTENT}, {"name": TEXT}),
    record(
        {"role": st.just("assistant")},
        {"content": CONTENT, "tool_calls": st.lists(CALL, max_size=3), "function_call": FUNCTION, **THOUGHTS},
    ),
    record({"role": st.just("tool")}, {"tool_call_id": IDS, "content": CONTENT, "name": TEXT}),
    record({"role": st.just("function")}, {"name": TEXT, "content": CONTENT}),
)


def check(message: Any) -> None:
    """A message as the engine may rely on it."""
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}
    assert set(message) <= known
    assert message["role"] in ("system", "developer", "user", "assistant", "tool")
    assert isinstance(message["content"], str)
    assert message.get("reasoning_content") != ""
    assert message.get("name") != ""
    assert ("tool_call_id" in message) == (message["role"] == "tool")
    for call in message.get("tool_calls", ()):
        assert message["role"] == "assistant"
        assert set(call) == {"id", "type", "function"}
        assert call["id"] and isinstance(call["id"], str)
        assert set(call["function"]) == {"name", "arguments"}
        assert all(isinstance(value, str) for value in call["function"].values())


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=5))
def test_any_conversation_is_a_prompt_or_an_error_with_param(messages: list[Any]) -> None:
    try:
        prompt = parse_chat({"messages": messages}).generate_request().prompt
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert error.param.startswith("messages")
        assert len(error.message.encode()) < 2500
    else:
        assert isinstance(prompt, ChatPrompt)
        assert len(prompt.messages) == len(messages)
        for message in prompt.messages:
            check(message)
        orjson.dumps(prompt.messages)
        again = parse_chat({"messages": messages}).generate_request().prompt
        assert again == prompt  # made-up ids are always the same


SCHEMA = st.dictionaries(st.sampled_from(["type", "properties", "required"]), ODD | st.just("object"), max_size=3)
SPEC = record({"name": st.sampled_from("fgh")}, {"description": TEXT, "parameters": SCHEMA, "strict": st.booleans()})
TOOL = record({"type": st.just("function"), "function": SPEC}, {})
NAMED = record({}, {"name": st.sampled_from("fgx")})
CHOICE = st.sampled_from(["none", "auto", "required"]) | st.one_of(
    record({"type": st.just("function")}, {"function": NAMED, "name": st.sampled_from("fgx")}),
    record(
        {"type": st.just("allowed_tools")},
        {
            "allowed_tools": record(
                {
                    "mode": st.sampled_from(["auto", "required"]),
                    "tools": st.lists(record({"type": st.just("function"), "function": NAMED}, {}), max_size=2),
                },
                {},
            )
        },
    ),
)
TOOL_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "tools": mostly(st.lists(TOOL, max_size=3)),
        "tool_choice": mostly(CHOICE),
        "parallel_tool_calls": mostly(st.booleans()),
        "functions": mostly(st.lists(SPEC, max_size=2)),
        "function_call": mostly(st.sampled_from(["none", "auto"]) | NAMED),
    },
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(TOOL_FIELDS)
def test_any_tools_are_an_offer_or_an_error_with_param(fields: dict[str, Any]) -> None:
    try:
        request = parse_chat({"messages": [{"role": "user", "content": "Hi"}], **fields})
        prompt = request.generate_request().prompt
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert error.param.split("[")[0].split(".")[0] in fields
        assert len(error.message.encode()) < 2500
    else:
        assert isinstance(prompt, ChatPrompt)
        names = [tool["function"]["name"] for tool in prompt.tools]
        assert len(set(names)) == len(names)
        assert all(isinstance(tool["function"]["parameters"], dict) for tool in prompt.tools)
        assert prompt.tool_name is None or (prompt.tool_choice == "required" and prompt.tool_name in names)
        assert prompt.tools or (prompt.tool_choice == "auto" and request.call_form == "none")
        orjson.dumps(prompt.tools)
