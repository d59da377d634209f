"""What holds for every reply: cuts change nothing, nothing gets lost, and what was written is what is read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.chat_format import CallFormat, ReplyRules, Tool
from localllm.engine.reply_reader import ReplyReader, TextPart
from tests.engine.reply_kit import FORMATS, HARMONY, THINK, cut, joined, read, rules

CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def fragments(calls: CallFormat) -> st.SearchStrategy[str]:
    """Text made of a format's own markers, whole and cut, of names, of JSON and of other text."""
    marks = [value for field in dataclasses.fields(calls) if isinstance(value := getattr(calls, field.name), str)]
    whole = [mark for mark in (*marks, "<think>", "</think>") if mark]
    pieces = [*whole, *(mark[: len(mark) // 2] for mark in whole), *(mark[len(mark) // 2 :] for mark in whole)]
    words = ["get", "put-it", "steal", "city", "days", '{"name": "get", ', '"arguments": {"a": "b"}}', '{"a": 1}', "5"]
    odd = [" ", "\n", "{", "}", "[", "]", "(", ")", "=", ":", ",", '"', "'", "\\", "<", "é☃", "```json\n", "```"]
    return st.lists(st.sampled_from([*pieces, *words, *odd]), max_size=14).map("".join)


ANY_REPLY = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda name: st.tuples(st.just(FORMATS[name]), fragments(FORMATS[name]))
)


@given(ANY_REPLY, CUTS, st.booleans())
def test_cuts_change_nothing(reply: tuple[CallFormat, str], cuts: list[int], in_thought: bool) -> None:
    calls, text = reply
    reply_rules = rules(calls, in_thought=in_thought)
    whole = read(reply_rules, text)
    assert read(reply_rules, *cut(text, cuts)) == whole
    assert read(reply_rules, *text) == whole


CHANNELS = st.lists(
    st.sampled_from(
        [
            *HARMONY.content_open,
            *HARMONY.content_close,
            "<|channel|>analysis<|message|>",
            " to=functions.",
            "get",
            "<|channel|>",
            "commentary json",
            "<|message|>",
            '{"a": 1}',
            "<|end|>",
            "text",
            " ",
            "\n",
        ]
    ),
    max_size=12,
).map("".join)


@given(CHANNELS, CUTS)
def test_cuts_change_nothing_amid_channels(text: str, cuts: list[int]) -> None:
    whole = read(HARMONY, text)
    assert read(HARMONY, *cut(text, cuts)) == whole
    assert read(HARMONY, *text) == whole


@given(ANY_REPLY, CUTS)
def test_text_stands_where_it_says(reply: tuple[CallFormat, str], cuts: list[int]) -> None:
    calls, text = reply
    check_places(rules(calls), cut(text, cuts))


@given(CHANNELS, CUTS)
def test_text_amid_channels_stands_where_it_says(text: str, cuts: list[int]) -> None:
    check_places(HARMONY, cut(text, cuts))


def check_places(reply_rules: ReplyRules, pieces: list[str]) -> None:
    reader = ReplyReader(reply_rules)
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.finish()
    end = 0
    for part in parts:
        if isinstance(part, TextPart):
            assert part.start >= end
            end = part.start + len(part.text)
            assert part.text == "".join(pieces)[part.start : end]


@given(ANY_REPLY, CUTS)
def test_where_no_call_is_on_offer_everything_is_content(reply: tuple[CallFormat, str], cuts: list[int]) -> None:
    calls, text = reply
    nobody = ReplyRules(calls=calls, tools=(Tool("nobody-calls-this"),))
    expected = [("content", text)] if text else []
    assert read(nobody, *cut(text, cuts)) == expected


@given(st.text().filter(lambda text: "<think>" not in text), CUTS)
def test_text_without_markers_passes_unchanged(text: str, cuts: list[int]) -> None:
    for calls in (FORMATS["coder"], FORMATS["gemma"], FORMATS["kimi"]):
        assert read(rules(calls), *cut(text, cuts)) == ([("content", text)] if text else [])


@given(st.text("ab <>/\n", max_size=30), st.text("ab <>/\n", max_size=30), CUTS)
def test_thoughts_and_content_come_apart(thought: str, content: str, cuts: list[int]) -> None:
    found = dict(read(rules(), *cut(f"<think>{thought}</think>{content}", cuts)))
    assert found.get("reasoning", "").strip() == thought.strip()
    assert found.get("content", "") == content.lstrip("\n")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=4)
LAYOUT = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
WRAPPED = {
    "hermes": '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>',
    "llama": '{{"name": "{}", "parameters": {}}}',
    "nemo": '[TOOL_CALLS][{{"name": "{}", "arguments": {}, "id": "x"}}]',
    "mistral": "[TOOL_CALLS]{}[ARGS]{}",
    "kimi": "<|calls|><|call|>functions.{}:0<|args|>{}<|end_call|><|end_calls|>",
}


@pytest.mark.parametrize("name", sorted(WRAPPED))
@given(arguments=OBJECTS, layout=LAYOUT, cuts=CUTS, before=st.sampled_from(["", "<think>\nx\n</think>\n\n"]))
def test_json_arguments_pass_as_they_were_written(
    name: str, arguments: dict[str, Any], layout: dict[str, Any], cuts: list[int], before: str
) -> None:
    written = json.dumps(arguments, **layout)
    text = before + WRAPPED[name].format("get", written)
    expected = [("reasoning", "x")] * bool(before) + [("0 get", written)]
    assert read(rules(FORMATS[name]), *cut(text, cuts)) == expected


@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=5), st.text().filter(lambda text: "</parameter" not in text), max_size=4
    ),
    CUTS,
)
def test_raw_strings_are_read_as_they_were_written(arguments: dict[str, str], cuts: list[int]) -> None:
    tool = Tool("get", {"type": "object", "properties": {key: {"type": "string"} for key in arguments}})
    pairs = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    text = f"<tool_call>\n<function=get>\n{pairs}</function>\n</tool_call>"
    ((kind, found),) = read(ReplyRules(THINK, calls=FORMATS["coder"], tools=(tool,)), *cut(text, cuts))
    assert (kind, json.loads(found)) == ("0 get", arguments)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["free", "opts", "new"]), LITERALS), CUTS)
def test_python_literals_mean_what_they_mean_in_python(arguments: dict[str, Any], cuts: list[int]) -> None:
    pairs = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    anything = (Tool("get"),)
    found = read(ReplyRules(calls=FORMATS["lfm"], tools=anything), *cut(f"<|calls|>[get({pairs})]<|end|>", cuts))
    assert [(kind, json.loads(text)) for kind, text in found] == [("0 get", arguments)]


@given(ANY_REPLY)
def test_what_is_read_of_a_text_is_final(reply: tuple[CallFormat, str]) -> None:
    """What was let out for the beginning of a text begins what is let out for all of it."""
    calls, text = reply
    reader = ReplyReader(rules(calls))
    early = joined(reader.feed(text[: len(text) // 2]))
    whole = read(rules(calls), text)
    assert len(early) <= len(whole)
    for index, (kind, said) in enumerate(early):
        assert whole[index][0] == kind
        assert whole[index][1].startswith(said)
        assert index == len(early) - 1 or whole[index][1] == said
