"""The functions that a request offers, and the choice among them."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, LocalLLMError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt
from localllm.openai import parse_chat

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING = {"type": "object", "properties": {}}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


WEATHER = tool("weather", description="Tells it.", parameters=SCHEMA, strict=True)
CLOCK = tool("clock")


def prompt(**fields: Any) -> ChatPrompt:
    found = parse_chat({"messages": HELLO, **fields}).generate_request().prompt
    assert isinstance(found, ChatPrompt)
    return found


def form(**fields: Any) -> str:
    return parse_chat({"messages": HELLO, **fields}).call_form


def names(**fields: Any) -> list[str]:
    return [one["function"]["name"] for one in prompt(**fields).tools]


def error(**fields: Any) -> LocalLLMError:
    with pytest.raises(LocalLLMError) as caught:
        prompt(**fields)
    return caught.value


def test_tools_reach_the_engine() -> None:
    found = prompt(tools=[WEATHER, CLOCK])
    assert found.tools == (WEATHER, tool("clock", parameters=NOTHING))
    assert (found.tool_choice, found.tool_name, found.parallel_tool_calls) == ("auto", None, True)
    assert form(tools=[WEATHER]) == "tools"


def test_null_is_absent_in_a_tool_and_in_its_schema() -> None:
    nulls = tool(
        "f", description=None, strict=None, parameters={**SCHEMA, "required": None, "additionalProperties": None}
    )
    assert prompt(tools=[nulls]).tools == (
        tool("f", parameters={"type": "object", "properties": SCHEMA["properties"]}),
    )
    assert prompt(tools=[tool("f", parameters=None, strict=False)]).tools == (tool("f", parameters=NOTHING),)
    assert prompt(tools=[tool("f", parameters={})]).tools == (tool("f", parameters=NOTHING),)


def test_what_a_tool_says_beside_is_left_out() -> None:
    assert prompt(tools=[{**CLOCK, "cache_control": {}, "function": {"name": "clock", "returns": 5}}]) == prompt(
        tools=[CLOCK]
    )


def test_a_tool_listed_twice_counts_once() -> None:
    assert names(tools=[WEATHER, CLOCK, WEATHER]) == ["weather", "clock"]
    assert error(tools=[WEATHER, tool("weather")]).param == "tools[1].function.name"


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}, {"functions": []}, {"functions": None}])
@pytest.mark.parametrize("choice", [{}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"function_call": "none"}])
def test_without_tools_there_are_no_calls(fields: dict[str, Any], choice: dict[str, Any]) -> None:
    assert prompt(**fields, **choice) == prompt()
    assert form(**fields, **choice) == "none"


def test_tool_choice() -> None:
    both = {"tools": [WEATHER, CLOCK]}
    for mode in ("none", "auto", "required"):
        assert prompt(**both, tool_choice=mode).tool_choice == mode
    assert form(**both, tool_choice="none") == "none"
    assert form(**both, tool_choice="required") == "tools"
    assert prompt(**both, tool_choice=None, parallel_tool_calls=None) == prompt(**both)
    assert not prompt(**both, parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    "named", [{"function": {"name": "clock"}}, {"name": "clock"}, {"name": "clock", "function": None}]
)
def test_a_named_tool_must_be_called_and_all_are_told(named: dict[str, Any]) -> None:
    found = prompt(tools=[WEATHER, CLOCK], tool_choice={"type": "function", **named})
    assert (found.tool_choice, found.tool_name) == ("required", "clock")
    assert [one["function"]["name"] for one in found.tools] == ["weather", "clock"]


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("nested", [True, False])
def test_allowed_tools_are_the_only_ones_offered(mode: str, nested: bool) -> None:
    allowed = {
        "mode": mode,
        "tools": [{"type": "function", "function": {"name": "clock"}}, {"type": "function", "name": "f"}],
    }
    choice = {"type": "allowed_tools", **({"allowed_tools": allowed} if nested else allowed)}
    found = prompt(tools=[tool("f"), WEATHER, CLOCK], tool_choice=choice)
    assert (found.tool_choice, found.tool_name) == (mode, None)
    assert [one["function"]["name"] for one in found.tools] == ["f", "clock"]


def test_the_older_functions_are_tools_that_are_called_one_at_a_time() -> None:
    functions = {"functions": [WEATHER["function"], CLOCK["function"]]}
    found = prompt(**functions)
    assert found.tools == prompt(tools=[WEATHER, CLOCK]).tools
    assert not found.parallel_tool_calls
    assert form(**functions) == "functions"
    assert prompt(**functions, function_call="none").tool_choice == "none"
    assert form(**functions, function_call="none") == "none"
    named = prompt(**functions, function_call={"name": "clock"})
    assert (named.tool_choice, named.tool_name) == ("required", "clock")
    assert prompt(**functions, function_call="auto", tool_choice="auto") == found


@pytest.mark.parametrize("kind", ["custom", "web_search", "mcp", "code_interpreter", "x" * 1000])
def test_other_tools_are_refused_by_their_type(kind: str) -> None:
    found = error(tools=[WEATHER, {"type": kind, kind: {}}])
    assert type(found) is UnsupportedFeatureError
    assert found.param == "tools[1].type"
    assert kind[:40] in found.message
    assert len(found.message) < 200


@pytest.mark.parametrize(
    ("tools", "at"),
    [
        (5, ""),
        ({}, ""),
        ("f", ""),
        ([CLOCK] * 513, ""),
        ([5], "[0]"),
        ([None], "[0]"),
        ([{}], "[0].type"),
        ([{"type": None}], "[0].type"),
        ([{"type": 5}], "[0].type"),
        ([{"type": "function"}], "[0].function"),
        ([{"type": "function", "function": None}], "[0].function"),
        ([{"type": "function", "name": "f"}], "[0].function"),
        ([{"type": "function", "function": {}}], "[0].function.name"),
        ([tool("")], "[0].function.name"),
        ([tool("f\n")], "[0].function.name"),
        ([tool("two words")], "[0].function.name"),
        ([tool("é")], "[0].function.name"),
        ([tool("x" * 129)], "[0].function.name"),
        ([CLOCK, tool("f", description=5)], "[1].function.description"),
        ([tool("f", description="\ud800")], "[0].function.description"),
        ([tool("f", strict="yes")], "[0].function.strict"),
        ([tool("f", parameters=[])], "[0].function.parameters"),
        ([tool("f", parameters="{}")], "[0].function.parameters"),
        ([tool("f", parameters={"type": "string"})], "[0].function.parameters.type"),
        ([tool("f", parameters={"type": ["null", "string"]})], "[0].function.parameters.type"),
        ([tool("f", parameters={"title": "x" * 131_072})], "[0].function.parameters"),
        ([tool("f", parameters={"title": "\ud800"})], "[0].function.parameters"),
    ],
)
def test_bad_tools_are_refused_by_path(tools: Any, at: str) -> None:
    found = error(tools=tools)
    assert type(found) is InvalidRequestError
    assert found.param == f"tools{at}"
    assert found.message.startswith(f"tools{at} ")


def test_names_may_hold_what_mcp_servers_put_in_them() -> None:
    for name in ("x" * 128, "a.b", "mcp:server/tool-1", "_", "9"):
        assert names(tools=[tool(name)]) == [name]


def test_a_schema_may_be_64_levels_deep() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(depth - 1):
            schema = {"not": schema}
        return schema

    assert prompt(tools=[tool("f", parameters=nested(64))])
    assert error(tools=[tool("f", parameters=nested(65))]).param == "tools[0].function.parameters"


BOTH = {"tools": [WEATHER], "functions": [CLOCK["function"]]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (BOTH, "functions"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"functions": [CLOCK]}, "functions[0].name"),
        ({"functions": [{"name": "f"}, {"name": "f", "description": "other"}]}, "functions[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [CLOCK]}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "clock"}}}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [CLOCK]}},
            "tool_choice",
        ),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": 5}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": []}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": 5}}, "tool_choice.function"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.mode"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "none"}}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [WEATHER, 5]}},
            "tool_choice.tools[1]",
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]},
            },
            "tool_choice.tools[0].name",
        ),
        ({"functions": [CLOCK["function"]], "tool_choice": "none"}, "tool_choice"),
        ({"tools": [CLOCK], "function_call": "none"}, "function_call"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"functions": [CLOCK["function"]], "function_call": {"name": "f"}}, "function_call"),
        ({"functions": [CLOCK["function"]], "function_call": "required"}, "function_call"),
        ({"functions": [CLOCK["function"]], "function_call": {}}, "function_call.name"),
        ({"tools": [WEATHER], "parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
def test_bad_choices_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    found = error(**fields)
    assert type(found) is InvalidRequestError
    assert found.param == param
