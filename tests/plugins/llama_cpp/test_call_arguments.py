"""The arguments of calls are held to their schemas, in each style; what can't be is left out or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import ChatFormat, InvalidRequestError, ReplyRules, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.tool_messages import ToolCall, write_calls
from tests.plugins.llama_cpp.families import CALLS, FAMILIES, TOOLS
from tests.plugins.llama_cpp.grammar_kit import Reply, required

FORMATS = {name: family.calls for name, family in FAMILIES.items() if family.calls}
CALL = [ToolCall(*call, id="c1") for call in CALLS]


def tool(properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> Tool:
    return Tool("act", {"type": "object", "properties": properties, "required": list(required), **more})


def written(name: str, arguments: dict[str, Any]) -> str:
    return write_calls(FORMATS[name], [ToolCall("act", arguments, "c1")])


STYLES = ["qwen3", "deepseek_v3", "qwen3_coder", "deepseek_v3_2", "lfm2_5", "gemma_4"]


@pytest.mark.parametrize("name", STYLES)
def test_arguments_may_be_left_out_only_if_they_are_not_required(name: str) -> None:
    properties = {key: {"type": "integer"} for key in "abc"}
    grammar = required(FORMATS[name], [tool(properties, ["b"])])
    for keys in ("b", "ab", "bc", "abc"):
        assert grammar.takes(written(name, dict.fromkeys(keys, 1)))
    for keys in ("", "a", "c", "ac"):
        assert not grammar.takes(written(name, dict.fromkeys(keys, 1)))


@pytest.mark.parametrize("name", STYLES)
def test_arguments_that_no_one_named_are_not_invented(name: str) -> None:
    assert not required(FORMATS[name], [tool({"a": {"type": "integer"}})]).takes(written(name, {"a": 1, "b": 2}))


def test_other_arguments_are_taken_where_the_schema_speaks_of_them() -> None:
    asked = written("qwen3", {"a": 1, "b": 2})
    properties = {"a": {"type": "integer"}}
    assert required(FORMATS["qwen3"], [tool(properties, additionalProperties=True)]).takes(asked)
    assert required(FORMATS["qwen3"], [tool(properties, ["a", "b"])]).takes(asked)
    assert required(FORMATS["qwen3"], [tool(properties, patternProperties={"b": {"type": "integer"}})]).takes(asked)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [0, -12], ["x", 1.5, None, [1]]),
        ({"type": "number"}, [1, 1.5, -2e-7], ["x", True]),
        ({"type": "boolean"}, [True, False], [1, None]),
        ({"type": "null"}, [None], [0]),
        ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2]], [1, ["x"], [True]]),
        ({"enum": ["red", "blue"]}, ["red", "blue"], ["green", 1]),
        ({"enum": [1, 2]}, [1, 2], [3]),
        ({"const": "on"}, ["on"], ["off"]),
        ({"$ref": "#/$defs/count"}, [5], ["x"]),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, [5, True], [None, [1]]),
    ],
)
def test_values_are_held_to_their_type(name: str, schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    offered = tool({"x": schema}, ["x"], **{"$defs": {"count": {"type": "integer"}}})
    grammar = required(FORMATS[name], [offered])
    assert all(grammar.takes(written(name, {"x": value})) for value in good)
    assert not any(grammar.takes(written(name, {"x": value})) for value in bad)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("value", ["", "plain", 'quo"te', "two\nlines", "</parameter", "ünï ☃", "a, b=c"])
def test_strings_may_say_anything(name: str, value: str) -> None:
    grammar = required(FORMATS[name], [tool({"x": {"type": "string"}, "y": {"type": "string"}}, ["x", "y"])])
    assert grammar.takes(written(name, {"x": value, "y": value}))


@pytest.mark.parametrize("name", STYLES)
def test_a_tool_without_parameters_has_none(name: str) -> None:
    grammar = required(FORMATS[name], [Tool("act")])
    assert grammar.takes(written(name, {}))
    assert not grammar.takes(written(name, {"x": 1}))


@pytest.mark.parametrize("name", STYLES)
def test_a_tool_that_says_nothing_of_its_parameters_takes_any(name: str) -> None:
    grammar = required(FORMATS[name], [Tool("act", {"type": "object"})])
    assert grammar.takes(written(name, {}))
    assert grammar.takes(written(name, {"x": "y", "n": 5, "deep": {"list": [1, {"a": None}], "t": True}}))


UNENFORCEABLE: dict[str, dict[str, Any]] = {
    "not": {"type": "integer", "not": {"const": 3}},
    "uniqueItems": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "if": {"if": {"type": "integer"}, "then": {"minimum": 3}},
    "look-around": {"type": "string", "pattern": "^(?=a)b"},
    "remote": {"$ref": "https://example.com/schema.json"},
    "dangling": {"type": "array", "items": {"$ref": "#/$defs/none"}},
    "multiple": {"type": "integer", "multipleOf": 99_999_989},
    "type": {"type": "strnig"},
}
GOOD = {"uniqueItems": [1, 1], "look-around": "ab", "dangling": []}


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("keyword", UNENFORCEABLE)
def test_what_cannot_be_enforced_is_left_out_of_a_tool_that_is_not_strict(name: str, keyword: str) -> None:
    odd = tool({"x": UNENFORCEABLE[keyword]}, ["x"])
    grammar = required(FORMATS[name], [odd])
    assert grammar.takes(written(name, {"x": GOOD.get(keyword, 3)}))
    assert not grammar.takes(written(name, {"x": GOOD.get(keyword, 3)}).replace("act", "other"))
    assert "'act'" in "".join(grammar.warnings)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("keyword", UNENFORCEABLE)
def test_a_strict_tool_that_cannot_be_honoured_is_refused_by_name(name: str, keyword: str) -> None:
    odd = replace(tool({"x": UNENFORCEABLE[keyword]}, ["x"]), strict=True)
    with pytest.raises(InvalidRequestError, match="tool 'act' can't be honoured") as caught:
        required(FORMATS[name], [TOOLS[0], odd])
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", STYLES)
def test_one_odd_argument_leaves_the_other_tools_as_they_are(name: str) -> None:
    odd = tool({"x": UNENFORCEABLE["remote"]}, ["x"])
    grammar = required(FORMATS[name], [odd, TOOLS[0]])
    text = write_calls(FORMATS[name], [ToolCall("get_weather", {"city": "x", "hours": [1]}, "c1")])
    assert grammar.takes(text)
    assert not grammar.takes(text.replace("[1]", "[none]"))


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"x": {"enum": ["a" * 200_000]}}},
        {"type": "object", "properties": {"x": json.loads('{"items": ' * 70 + "{}" + "}" * 70)}},
    ],
)
def test_schemas_beyond_the_limits_are_left_out_or_refused(name: str, strict: bool, parameters: dict[str, Any]) -> None:
    offered = Tool("act", parameters, strict=strict)
    if strict:
        with pytest.raises(InvalidRequestError, match=r"tool 'act' can't be honoured.*(longer|deeper) than") as caught:
            required(FORMATS[name], [offered])
        assert caught.value.param == "tools"
        return
    grammar = required(FORMATS[name], [offered])
    assert grammar.takes(written(name, {"other": 5}))
    assert "'act' are not enforced" in grammar.warnings[0]


@pytest.mark.parametrize("name", STYLES)
def test_any_number_of_tools_can_be_called(name: str) -> None:
    shape = {f"argument_{index}": {"type": "string", "maxLength": 40 + index} for index in range(12)}
    tools = [
        Tool(f"act_{index}", {"type": "object", "properties": shape, "required": [*shape]}) for index in range(150)
    ]
    grammar = required(FORMATS[name], tools)
    text = write_calls(FORMATS[name], [ToolCall("act_149", dict.fromkeys(shape, "x"), "c1")])
    assert grammar.takes(text)
    assert not grammar.takes(text.replace("act_149", "act_150"))


def test_as_many_strict_tools_as_nobody_can_hold_are_refused() -> None:
    shape = {f"argument_{index}": {"type": "string"} for index in range(60)}
    tools = [Tool(f"act_{index}", {"type": "object", "properties": shape}, strict=True) for index in range(100)]
    with pytest.raises(InvalidRequestError, match="tools are too many") as caught:
        required(FORMATS["qwen3_coder"], tools)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", STYLES)
def test_values_inside_of_values_are_held_to_their_type(name: str) -> None:
    tree = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    offered = tool({"x": {"$ref": "#/$defs/tree"}, "y": counts}, ["x"], **{"$defs": {"tree": tree}})
    grammar = required(FORMATS[name], [replace(offered, strict=True)])
    for good in ({"n": 1}, {"n": 1, "left": {"n": 2, "left": {"n": 3, "left": None}}}):
        assert grammar.takes(written(name, {"x": good}))
    for bad in ({}, {"n": "x"}, {"n": 1, "left": {"left": None}}, {"n": 1, "right": 2}):
        assert not grammar.takes(written(name, {"x": bad}))
    assert grammar.takes(written(name, {"x": {"n": 1}, "y": {"a": 1, "b": 2}}))
    assert not grammar.takes(written(name, {"x": {"n": 1}, "y": {"a": "one"}}))


@pytest.mark.parametrize("name", STYLES)
def test_parameters_may_be_a_reference(name: str) -> None:
    counted = {"type": "object", "properties": {"n\u00f6": {"type": "integer"}}, "required": ["n\u00f6"]}
    grammar = required(FORMATS[name], [Tool("act", {"$ref": "#/$defs/Z\u00e4hler", "$defs": {"Z\u00e4hler": counted}})])
    assert grammar.takes(written(name, {"n\u00f6": 4}))
    assert not grammar.takes(written(name, {"n\u00f6": "x"}))


@pytest.mark.parametrize("name", ["qwen3_coder", "glm_4_6", "deepseek_v3_2", "qwen3", "deepseek_v3"])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_the_length_of_strings_is_held_to(name: str, as_tokens: bool) -> None:
    offered = replace(tool({"x": {"type": "string", "minLength": 2, "maxLength": 4}}, ["x"]), strict=True)
    grammar = Reply(ChatFormat(calls=FORMATS[name]), tools=[offered], as_tokens=as_tokens)
    for good in ("ab", "a\u2603c", "abcd"):
        assert grammar.takes(written(name, {"x": good}))
    for bad in ("a", "abcde"):
        assert not grammar.takes(written(name, {"x": bad}))


@pytest.mark.parametrize("name", STYLES)
def test_an_optional_choice_is_one_of_its_words_or_null(name: str) -> None:
    words = {"anyOf": [{"enum": ["red", "blue"], "type": "string"}, {"type": "null"}], "default": None, "title": "X"}
    grammar = required(FORMATS[name], [replace(tool({"x": words}, ["x"]), strict=True)])
    assert all(grammar.takes(written(name, {"x": value})) for value in ("red", "blue", None))
    assert not any(grammar.takes(written(name, {"x": value})) for value in ("green", 3))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("ab\"'\\\n<{[é", max_size=6),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=3), values, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(PRESETS.keys() - {"none", "apriel"})), JSON_VALUES, st.text("ab\"'\\\n<é☃", max_size=9))
def test_every_call_that_is_accepted_is_read_back(name: str, value: object, text: str) -> None:
    calls = PRESETS[name].calls
    assert calls is not None
    marks = (calls.string_close, calls.value_close.strip())
    if any(mark and mark in text for mark in marks):
        return
    shape: dict[str, Any] = {"x": {"type": ["number", "boolean", "null", "array", "object"]}, "y": {"type": "string"}}
    offered = tool(shape, ["y"])
    arguments = {"y": text} if isinstance(value, str) else {"x": value, "y": text}
    message = write_calls(calls, [ToolCall("act", arguments, "c1")])
    assert required(calls, [offered]).takes(message)
    reader = ReplyReader(ReplyRules(calls=calls, tools=(offered,)))
    parts = reader.feed(message) + reader.finish()
    assert all(isinstance(part, CallPart) for part in parts)
    assert json.loads("".join(part.arguments for part in parts if isinstance(part, CallPart))) == arguments


ODD_SCHEMAS = st.recursive(
    JSON_VALUES | st.sampled_from([{"type": "string"}, {"$ref": "#"}, {"$ref": "#/properties/a"}, {"enum": []}]),
    lambda inner: st.dictionaries(
        st.sampled_from(
            ["type", "properties", "required", "items", "anyOf", "allOf", "enum", "const", "$ref", "$defs"]
        ),
        inner | st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b c", ">"]), inner, max_size=2),
        max_size=3,
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(STYLES), st.dictionaries(st.sampled_from(["properties", "required", "$defs", "type"]), ODD_SCHEMAS)
)
def test_parameters_that_are_no_schema_leave_a_tool_that_is_not_strict_usable(
    name: str, parameters: dict[str, Any]
) -> None:
    grammar = required(FORMATS[name], [Tool("act", parameters), TOOLS[1]])
    assert grammar.takes(write_calls(FORMATS[name], CALL[1:]))
