"""Grammars of calls compile, accept what templates write, and accept nothing but calls of the tools on offer."""

from __future__ import annotations

import pytest

from localllm import CallFormat
from localllm_llama_cpp.tool_messages import ToolCall, write_calls
from tests.plugins.llama_cpp.families import CALLS, FAMILIES, TOOLS, written_calls
from tests.plugins.llama_cpp.grammar_kit import required

FORMATS = {name: family.calls for name, family in FAMILIES.items() if family.calls}
SHOWN = sorted(name for name, family in FAMILIES.items() if family.calls and family.shows_calls)
CALL = [ToolCall(*call, id="c1") for call in CALLS]
CALLED = ("<|call_begin|>", "<|call_end|>")


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_template_writes_is_accepted(name: str) -> None:
    calls = FORMATS[name]
    grammar = required(calls, TOOLS)
    one = written_calls(name, CALLS[:1]).rstrip()
    assert grammar.takes(one)
    if calls.parallel:
        two = written_calls(name, CALLS).rstrip()
        assert grammar.takes(two)
        assert not required(calls, TOOLS, parallel=False).takes(two)
    assert required(calls, TOOLS[:1], parallel=False).takes(one)
    assert not required(calls, TOOLS[1:]).takes(one)  # the other function was named


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_but_a_call_is_accepted(name: str) -> None:
    calls = FORMATS[name]
    grammar = required(calls, TOOLS)
    text = write_calls(calls, CALL[:1])
    assert grammar.takes(text)
    assert not grammar.takes("")
    assert not grammar.takes("It rains.")
    assert not grammar.takes("Look: " + text)
    assert not grammar.takes(text[: len(text) // 2])
    assert not grammar.takes(text.replace("get_weather", "get_money"))
    assert not grammar.takes(write_calls(calls, [ToolCall("get_weather", {"days": 3}, "c1")]))  # no city
    assert not grammar.takes(write_calls(calls, [ToolCall("get_weather", {"city": "x", "days": "no"}, "c1")]))


def test_control_tokens_stand_for_themselves() -> None:
    calls = CallFormat("tagged_json", call_open=CALLED[0], name_close="\n", call_close=CALLED[1])
    text = CALLED[0] + 'set-alarm\n{"note": "x"}' + CALLED[1]
    grammar = required(calls, TOOLS, as_tokens=True)
    assert grammar.takes(text)
    assert not grammar.takes_tokens(text.encode())
    assert required(calls, TOOLS).takes_tokens(text.encode())


def test_a_raw_string_ends_where_a_control_token_does_or_what_reads_like_it() -> None:
    calls = CallFormat(
        "tagged_values", call_open="<c>", name_close="\n", key_open="<k>", key_close=":", value_close=CALLED[1] + "\n"
    )
    grammar = required(calls, TOOLS, as_tokens=True)
    end = grammar.texts.markers[CALLED[1]]
    head = b"<c>set-alarm\n<k>note:"
    assert grammar.takes_tokens(
        [*grammar.texts.encode(head.decode(), add_special=False, parse_special=True), *b"a", end, *b"\n"]
    )
    assert grammar.takes("<c>set-alarm\n<k>note:a <|call\n_end" + CALLED[1] + "\n")
    assert not grammar.takes("<c>set-alarm\n<k>note:a" + CALLED[1] + "b" + CALLED[1] + "\n")
    spelled = grammar.texts.encode("<c>set-alarm\n<k>note:", add_special=False, parse_special=True)
    assert grammar.takes_tokens([*spelled, *("a" + CALLED[1] + "\n").encode()])
    assert not grammar.takes_tokens([*spelled, *("a" + CALLED[1] + "b").encode(), end, *b"\n"])


@pytest.mark.parametrize("marker", ["call_close", "section_close", "separator"])
def test_a_marker_that_ends_the_reply_is_left_to_its_end(marker: str) -> None:
    """An end token is never drawn as text: to ask for one would leave the reply without any token to go on with."""
    markers = {"call_close": "</c>", "section_close": "</s>", "separator": "\n", marker: "\n<|eot|>"}
    calls = CallFormat("tagged_json", section_open="<s>", call_open="<c>", name_close="\n", **markers)
    grammar = required(calls, TOOLS, ends=("<|eot|>",))
    text = write_calls(calls, CALL[1:])
    assert grammar.takes(text.partition("\n<|eot|>")[0])
    if marker != "section_close":
        assert not grammar.takes(write_calls(calls, CALL).replace("<|eot|>", ""))


def test_ids_that_a_family_writes_are_allowed_where_it_writes_them() -> None:
    nemo = required(FORMATS["mistral_nemo"], TOOLS)
    assert nemo.takes('[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}}]')
    assert nemo.takes('[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}, "id": "abcDEF123"}]')
    assert not nemo.takes('[TOOL_CALLS][{"name": "set-alarm", "arguments": {"note": "x"}, "other": "y"}]')
    kimi = required(FORMATS["kimi_k2"], TOOLS)
    text = write_calls(FORMATS["kimi_k2"], [ToolCall("set-alarm", {"note": "x"}, "12")])
    assert "functions.set-alarm:12<|" in text
    assert kimi.takes(text)
