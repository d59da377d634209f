"""Grammars of calls compile, accept what templates write, and accept nothing but calls of the tools on offer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import CallFormat, ReplyRules, ThoughtFormat, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader
from localllm_llama_cpp.call_grammar import call_grammar, triggered_call_grammar
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.tool_messages import ToolCall, write_calls
from tests.plugins.llama_cpp.families import CALLS, FAMILIES, TOOLS, written_calls

FORMATS = {name: family.calls for name, family in FAMILIES.items() if family.calls}
SHOWN = sorted(name for name, family in FAMILIES.items() if family.calls and family.shows_calls)
CALL = [ToolCall(*call, id="c1") for call in CALLS]
CALLED = ("<|call_begin|>", "<|call_end|>")


class Vocabulary:
    """All bytes, two control tokens and an end."""

    eos_token_id = 258
    bos_token_id = None
    special_token_ids = (256, 257, 258)
    tokens = (*(bytes([byte]) for byte in range(256)), *(text.encode() for text in CALLED), b"<|end|>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def special(self, text: str) -> int | None:
        return 256 + CALLED.index(text) if text in CALLED else None


VOCABULARY = Vocabulary()
TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(VOCABULARY))


def matcher(source: str) -> llguidance.LLMatcher:
    grammar = llguidance.LLMatcher.grammar_from_lark(source)
    assert llguidance.LLMatcher.validate_grammar(grammar, TOKENIZER) == "", source
    return llguidance.LLMatcher(TOKENIZER, grammar)


def accepts(source: str, text: str | Sequence[int]) -> bool:
    tokens = VOCABULARY(text) if isinstance(text, str) else list(text)
    found = matcher(source)
    return found.try_consume_tokens(tokens) == len(tokens) and found.is_accepting()


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_template_writes_is_accepted(name: str) -> None:
    calls = FORMATS[name]
    grammar = call_grammar(calls, TOOLS).source
    one = written_calls(name, CALLS[:1]).rstrip()
    assert accepts(grammar, one)
    if calls.parallel:
        two = written_calls(name, CALLS).rstrip()
        assert accepts(grammar, two)
        assert not accepts(call_grammar(calls, TOOLS, parallel=False).source, two)
    assert accepts(call_grammar(calls, TOOLS[:1], parallel=False).source, one)
    assert not accepts(call_grammar(calls, TOOLS[1:]).source, one)  # the other function was named


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_but_a_call_is_accepted(name: str) -> None:
    calls = FORMATS[name]
    grammar = call_grammar(calls, TOOLS).source
    text = write_calls(calls, CALL[:1])
    assert accepts(grammar, text)
    assert not accepts(grammar, "")
    assert not accepts(grammar, "It rains.")
    assert not accepts(grammar, "Look: " + text)
    assert not accepts(grammar, text[: len(text) // 2])
    assert not accepts(grammar, text.replace("get_weather", "get_money"))
    assert not accepts(grammar, write_calls(calls, [ToolCall("get_weather", {"days": 3}, "c1")]))  # no city
    assert not accepts(grammar, write_calls(calls, [ToolCall("get_weather", {"city": "x", "days": "no"}, "c1")]))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_from_the_trigger_on_white_space_is_free(name: str) -> None:
    calls = FORMATS[name]
    found = triggered_call_grammar(calls, TOOLS)
    text = write_calls(calls, CALL[:1])
    if found is None:
        assert name in ("llama_3", "llama_4")  # their calls begin with a bracket
        return
    trigger, constraint = found
    call = text[text.index(trigger) :]
    assert constraint.kind == "lark"
    assert accepts(constraint.source, call)
    assert not accepts(constraint.source, call.replace("get_weather", "get_money"))
    frame = (calls.call_open, calls.section_open)
    if any("\n" in marker.rstrip() for marker in frame):
        assert accepts(constraint.source, call.replace(">\n<", "><", 1))


def test_line_ends_may_stand_behind_a_thought() -> None:
    text = write_calls(FORMATS["qwen3"], CALL)
    thinking = call_grammar(FORMATS["qwen3"], TOOLS, thought=ThoughtFormat("<think>", "</think>")).source
    assert accepts(thinking, text)
    assert accepts(thinking, "\n\n" + text)
    assert not accepts(call_grammar(FORMATS["qwen3"], TOOLS).source, "\n\n" + text)


def test_control_tokens_stand_for_themselves() -> None:
    calls = CallFormat("tagged_json", call_open=CALLED[0], name_close="\n", call_close=CALLED[1])
    body = VOCABULARY('set-alarm\n{"note": "x"}')
    grammar = call_grammar(calls, TOOLS, special_token=VOCABULARY.special).source
    assert accepts(grammar, [256, *body, 257])
    assert not accepts(grammar, VOCABULARY(CALLED[0]) + body + VOCABULARY(CALLED[1]))
    spelled = call_grammar(calls, TOOLS).source
    assert accepts(spelled, VOCABULARY(CALLED[0]) + body + VOCABULARY(CALLED[1]))


def test_a_raw_string_ends_where_a_control_token_does() -> None:
    calls = CallFormat(
        "tagged_values", call_open="<c>", name_close="\n", key_open="<k>", key_close=":", value_close=CALLED[1] + "\n"
    )
    grammar = call_grammar(calls, TOOLS, special_token=VOCABULARY.special).source
    head = VOCABULARY("<c>set-alarm\n<k>note:")
    assert accepts(grammar, [*head, *VOCABULARY("a <|call\n_end"), 257, *VOCABULARY("\n")])
    assert not accepts(grammar, [*head, *VOCABULARY("a"), 256, *VOCABULARY("\n")])


def tool(properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> Tool:
    return Tool("act", {"type": "object", "properties": properties, "required": list(required), **more})


def written(name: str, arguments: dict[str, Any]) -> str:
    return write_calls(FORMATS[name], [ToolCall("act", arguments, "c1")])


STYLES = ["qwen3", "deepseek_v3", "qwen3_coder", "deepseek_v3_2", "lfm2_5", "gemma_4"]


@pytest.mark.parametrize("name", STYLES)
def test_arguments_may_be_left_out_only_if_they_are_not_required(name: str) -> None:
    grammar = call_grammar(
        FORMATS[name], [tool({"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}, ["b"])]
    ).source
    for keys in ("b", "ab", "bc", "abc"):
        assert accepts(grammar, written(name, dict.fromkeys(keys, 1)))
    for keys in ("", "a", "c", "ac"):
        assert not accepts(grammar, written(name, dict.fromkeys(keys, 1)))


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
    grammar = call_grammar(FORMATS[name], [offered]).source
    assert all(accepts(grammar, written(name, {"x": value})) for value in good)
    assert not any(accepts(grammar, written(name, {"x": value})) for value in bad)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("value", ["", "plain", 'quo"te', "two\nlines", "</parameter", "ünï ☃", "a, b=c"])
def test_strings_may_say_anything(name: str, value: str) -> None:
    grammar = call_grammar(FORMATS[name], [tool({"x": {"type": "string"}, "y": {"type": "string"}}, ["x", "y"])]).source
    assert accepts(grammar, written(name, {"x": value, "y": value}))


@pytest.mark.parametrize("name", STYLES)
def test_a_tool_without_parameters_has_none(name: str) -> None:
    grammar = call_grammar(FORMATS[name], [Tool("act")]).source
    assert accepts(grammar, written(name, {}))
    assert not accepts(grammar, written(name, {"x": 1}))


@pytest.mark.parametrize("name", STYLES)
def test_a_tool_that_says_nothing_of_its_parameters_takes_any(name: str) -> None:
    grammar = call_grammar(FORMATS[name], [Tool("act", {"type": "object"})]).source
    assert accepts(grammar, written(name, {}))
    assert accepts(grammar, written(name, {"x": "y", "n": 5, "deep": {"list": [1, {"a": None}], "t": True}}))


@pytest.mark.parametrize("name", STYLES)
def test_what_the_engine_cannot_enforce_is_left_out_of_a_tool_that_is_not_strict(name: str) -> None:
    odd = tool({"x": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}}, ["x"])
    assert accepts(call_grammar(FORMATS[name], [odd]).source, written(name, {"x": [1, 1]}))
    if FORMATS[name].style != "pythonic":  # its rules are ours and hold no more than types
        strict = llguidance.LLMatcher.grammar_from_lark(call_grammar(FORMATS[name], [replace(odd, strict=True)]).source)
        assert "uniqueItems" in llguidance.LLMatcher.validate_grammar(strict, TOKENIZER)


def test_ids_that_a_family_writes_are_allowed_where_it_writes_them() -> None:
    nemo = call_grammar(FORMATS["mistral_nemo"], TOOLS).source
    assert accepts(nemo, '[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}}]')
    assert accepts(nemo, '[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}, "id": "abcDEF123"}]')
    assert not accepts(nemo, '[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}, "other": "y"}]')
    kimi = call_grammar(FORMATS["kimi_k2"], TOOLS).source
    text = write_calls(FORMATS["kimi_k2"], [ToolCall("set-alarm", {"note": "x"}, "12")])
    assert "functions.set-alarm:12<|" in text
    assert accepts(kimi, text)


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
    assert accepts(call_grammar(calls, [offered]).source, message)
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
def test_parameters_that_are_no_schema_are_at_worst_refused_by_the_engine(
    name: str, parameters: dict[str, Any]
) -> None:
    source = call_grammar(FORMATS[name], [Tool("act", parameters)]).source
    matcher(re.sub(r"%json .*", "%json {}", source))  # everything around the schemas is sound
