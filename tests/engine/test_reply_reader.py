"""Replies are told apart into thoughts, content and calls, wherever they are cut."""

from __future__ import annotations

import json

import pytest

from localllm.contract.chat_format import CallFormat, ReplyRules, ThoughtFormat, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader, TextPart, needs_reading
from tests.engine.reply_kit import (
    CODER,
    DSML,
    GEMMA,
    HARMONY,
    HERMES,
    KIMI,
    LFM,
    LLAMA,
    MISTRAL,
    NEMO,
    THINK,
    joined,
    read_everywhere,
    rules,
)

HERMES_CALL = '<tool_call>\n{"name": "get", "arguments": {"city": "Bonn"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nWhy?\n</think>\n\nBecause.", [("reasoning", "Why?"), ("content", "Because.")]),
        ("\n<think>Why?</think>Because.", [("reasoning", "Why?"), ("content", "Because.")]),
        ("<think>\n\n</think>\n\nYes.\n", [("content", "Yes.\n")]),
        ("<think>one\n\n two </thin </think>  x", [("reasoning", "one\n\n two </thin"), ("content", "  x")]),
        ("<think>never closed\n", [("reasoning", "never closed\n")]),
        ("I write <think> and </think> in a text.", [("content", "I write <think> and </think> in a text.")]),
        (" <thi", [("content", " <thi")]),
        ("", []),
    ],
)
def test_thoughts(text: str, expected: list[tuple[str, str]]) -> None:
    assert read_everywhere(rules(), text) == expected


@pytest.mark.parametrize("text", ["hm\n</think>\n\nYes.", "<think>\nhm</think>\nYes."])
def test_a_thought_that_the_prompt_opened(text: str) -> None:
    assert read_everywhere(rules(in_thought=True), text) == [("reasoning", "hm"), ("content", "Yes.")]


def test_whether_a_piece_is_reasoning_is_told_before_and_after_it() -> None:
    reader = ReplyReader(rules())
    told = []
    for piece in ["<think>", "hm", "</thi", "nk>", "\n\n", "Yes"]:
        before = reader.in_thought
        reader.feed(piece)
        told.append(before or reader.in_thought)
    assert told == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("calls", "text", "expected"),
    [
        (HERMES, HERMES_CALL, [("0 get", '{"city": "Bonn"}')]),
        (
            HERMES,
            ('<tool_call>{"name":"get","arguments":{"city":"}\\"</tool_call>"}}</tool_call>'
            '<tool_call> {"name" : "put-it"}</tool_call>'),
            [("0 get", '{"city":"}\\"</tool_call>"}'), ("1 put-it", "{}")],
        ),
        (HERMES, f"<think>\nhm\n</think>\n\nOne moment.\n\n{HERMES_CALL}\n",
         [("reasoning", "hm"), ("content", "One moment."), ("0 get", '{"city": "Bonn"}')]),
        (HERMES, f"{HERMES_CALL}\n\nDone.", [("0 get", '{"city": "Bonn"}'), ("content", "\n\nDone.")]),
        (HERMES, '<tool_call>\n{"name": "functions.get", "arguments": null}\n</tool_call>', [("0 get", "{}")]),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "get", "id": "7"}</tool_call>', [("0 get", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "get", "arguments": "{\\"a\\": 1}"}</tool_call>', [("0 get", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "get", "parameters": {"a": 1}}</tool_call>', [("0 get", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "get", "arguments": {"a": "x\ty\nz"}}</tool_call>',
         [("0 get", '{"a": "x\\ty\\nz"}')]),
        (HERMES, '{"name": "get", "arguments": {"a": 1}}', [("0 get", '{"a": 1}')]),
        (HERMES, '```json\n{"name": "get", "arguments": {"a": 1}}\n```\n', [("0 get", '{"a": 1}')]),
        (HERMES, '[{"name": "get", "arguments": {}}, {"name": "put-it", "arguments": {}}]',
         [("0 get", "{}"), ("1 put-it", "{}")]),
        (LLAMA, '{"name": "get", "parameters": {"a": 1}}', [("0 get", '{"a": 1}')]),
        (LLAMA, '{"type": "function", "name": "get", "parameters": {"a": 1}}', [("0 get", '{"a": 1}')]),
        (LLAMA, ' {"name": "get", "parameters": {"a": 1}};\n{"name": "put-it", "parameters": {}}',
         [("0 get", '{"a": 1}'), ("1 put-it", "{}")]),
        (NEMO, ('[TOOL_CALLS] [{"name": "get", "arguments": {"a": 1}, "id": "abcdefghi"}, '
         '{"name": "put-it", "arguments": {}, "id": "abcdefghj"}]'), [("0 get", '{"a": 1}'), ("1 put-it", "{}")]),
        (MISTRAL, 'Well.[TOOL_CALLS]get[ARGS]{"a": 1}[TOOL_CALLS]put-it[ARGS]{}',
         [("content", "Well."), ("0 get", '{"a": 1}'), ("1 put-it", "{}")]),
        (KIMI, ('<|calls|><|call|>functions.get:0<|args|>{"a": 1}<|end_call|>'
         "<|call|>put-it:1<|args|>{}<|end_call|><|end_calls|>"), [("0 get", '{"a": 1}'), ("1 put-it", "{}")]),
        (KIMI, '<|call|>functions.get:0<|args|>{"a": 1}<|end_call|>', [("0 get", '{"a": 1}')]),
        (CODER, ("<tool_call>\n<function=get>\n<parameter=city>\nBad \"Ems\"\n\n</parameter>\n<parameter=days>\n5\n"
         "</parameter>\n<parameter=opts>\n{\"a\": [true]}\n</parameter>\n</function>\n</tool_call>"),
         [("0 get", '{"city": "Bad \\"Ems\\"\\n", "days": 5, "opts": {"a": [true]}}')]),
        (CODER, "<tool_call>\n<function=put-it>\n</function>\n</tool_call>", [("0 put-it", "{}")]),
        (CODER, "<tool_call><function=get><parameter=city>B</parameter></function>", [("0 get", '{"city": "B"}')]),
        (DSML, ('\n\n<D|calls>\n<D|invoke name="get">\n<D|parameter name="free" string="true">5</D|parameter>\n'
         '<D|parameter name="city" string="false">5</D|parameter>\n</D|invoke>\n<D|invoke name="put-it">\n'
         "</D|invoke>\n</D|calls>"), [("0 get", '{"free": "5", "city": 5}'), ("1 put-it", "{}")]),
        (LFM, "<|calls|>[get(city='it\\'s \"ok\"', days=3, opts={'a': [None, True], \"b\": (1, 2)}), put-it()]<|end|>",
         [("0 get", '{"city": "it\'s \\"ok\\"", "days": 3, "opts": {"a": [null, true], "b": [1, 2]}}'),
          ("1 put-it", "{}")]),
        (GEMMA, '<|tool_call>call:get{city:<|"|>a "b" {c}<|"|>,opts:{k:<|"|>v<|"|>,n:[1,true]}}<tool_call|>',
         [("0 get", '{"city": "a \\"b\\" {c}", "opts": {"k": "v", "n": [1, true]}}')]),
    ],
)  # fmt: skip
def test_calls(calls: CallFormat, text: str, expected: list[tuple[str, str]]) -> None:
    found = read_everywhere(rules(calls), text)
    assert found == expected
    assert all(isinstance(json.loads(arguments), dict) for kind, arguments in found if kind[0].isdigit())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5", {"days": 5}),
        ("5.5", {"days": 5.5}),
        ("five", {"days": "five"}),
        ("null", {"maybe": None}),
        ("nullable", {"maybe": "nullable"}),
        ("12", {"maybe": "12"}),
        ("12", {"city": "12"}),
        ("  two words ", {"city": "  two words "}),
        ("12", {"free": 12}),
        ("True", {"free": True}),
        ("[1, ", {"free": "[1, "}),
        ("NaN", {"free": "NaN"}),
        ('"quoted"', {"free": '"quoted"'}),
        ('{"a": 1}', {"opts": {"a": 1}}),
        ("{'a': 1}", {"opts": "{'a': 1}"}),
        ("", {"city": ""}),
        ("line\nline", {"unknown": "line\nline"}),
    ],
)
def test_values_get_the_type_that_the_schema_gives_them(value: str, expected: dict[str, object]) -> None:
    (key,) = expected
    text = f"<tool_call>\n<function=get>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"
    ((kind, arguments),) = read_everywhere(rules(CODER), text)
    assert kind == "0 get"
    assert json.loads(arguments) == expected


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "steal", "arguments": {}}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "get", "argum'),
        (HERMES, "<tool_call> is the tag that I write <tool_call>"),
        (HERMES, "<tool_call>\n{'name': 'get'}\n</tool_call>"),
        (HERMES, '<tool_call>\n{"name": "get", "arguments": [1]}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": 5}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"arguments": {"a": 1}}\n</tool_call>'),
        (HERMES, '{"name": "Bonn", "arguments": "against"}'),
        (HERMES, '{"city": "Bonn"}'),
        (HERMES, '```python\nprint("hi")\n```'),
        (HERMES, "[1, 2, 3]"),
        (HERMES, "  1 < 2\n\n"),
        (LLAMA, '{"name": "get"'),
        (LLAMA, 'So: {"name": "get", "parameters": {}}'),
        (NEMO, "[TOOL_CALLS] none"),
        (MISTRAL, "[TOOL_CALLS]getter[ARGS]{}"),
        (MISTRAL, "[TOOL_CALLS]get[ARGS][1]"),
        (KIMI, "<|calls|><|call|>functions.get:" + "0" * 200 + "<|args|>{}"),
        (CODER, "<tool_call>\n<function=steal>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>"),
        (CODER, "<tool_call>\n<function=get>\nnothing"),
        (LFM, "<|calls|>[get('Bonn')]<|end|>"),
        (LFM, "<|calls|>[get(city"),
        (GEMMA, "<|tool_call>call:get{Bonn}<tool_call|>"),
    ],
)
def test_what_is_no_call_of_a_tool_on_offer_stays_as_it_was_written(calls: CallFormat, text: str) -> None:
    assert read_everywhere(rules(calls), text) == [("content", text)]


@pytest.mark.parametrize(
    ("calls", "text", "expected"),
    [
        (HERMES, '<tool_call>{"name": "get", "arguments": {"city": "Bo', [("0 get", '{"city": "Bo')]),
        (MISTRAL, '[TOOL_CALLS]get[ARGS]{}[TOOL_CALLS]pu', [("0 get", "{}"), ("content", "[TOOL_CALLS]pu")]),
        (HERMES, '<tool_call>{"name": "get", "arguments": {}, oops}</tool_call>', [("0 get", "{}"),
         ("content", ", oops}</tool_call>")]),
        (HERMES, f'<tool_call>\n{{"name": "steal", "arguments": {{}}}}\n</tool_call>\n{HERMES_CALL}',
         [("content", '<tool_call>\n{"name": "steal", "arguments": {}}\n</tool_call>'), ("0 get", '{"city": "Bonn"}')]),
        (CODER, "<tool_call>\n<function=get>\n<parameter=city>\nBo", [("0 get", '{"city": "Bo')]),
        (CODER, "<tool_call>\n<function=get>\n<parameter=days>\n12", [("0 get", '{"days": 12')]),
        (CODER, "<tool_call>\n<function=get>\n<parameter=city>\nBonn\n</parameter>\n", [("0 get", '{"city": "Bonn"}')]),
        (LFM, "<|calls|>[get(days=3, city='Bo", [("0 get", '{"days": 3, "city": "Bo')]),
        (LFM, "<|calls|>[get(days=3), steal()]<|end|>", [("0 get", '{"days": 3}'), ("content", ", steal()]<|end|>")]),
        (NEMO, '[TOOL_CALLS][{"name": "get", "arguments": {}}, 5]', [("0 get", "{}"), ("content", ", 5]")]),
    ],
)  # fmt: skip
def test_a_call_that_breaks_off_keeps_what_is_sure(
    calls: CallFormat, text: str, expected: list[tuple[str, str]]
) -> None:
    assert read_everywhere(rules(calls), text) == expected


def test_a_call_ends_a_thought_that_was_left_open() -> None:
    reader = ReplyReader(rules(HERMES, in_thought=True))
    parts = reader.feed(f"I need the weather.\n{HERMES_CALL}")
    assert not reader.in_thought
    assert joined(parts + reader.finish()) == [("reasoning", "I need the weather."), ("0 get", '{"city": "Bonn"}')]
    assert reader.n_calls == 1


def test_a_thought_about_calls_stays_a_thought() -> None:
    text = "With <tool_call> I could call.\n</think>\n\nNo."
    expected = [("reasoning", "With <tool_call> I could call."), ("content", "No.")]
    assert read_everywhere(rules(HERMES, in_thought=True), text) == expected


def test_without_tools_a_call_is_text() -> None:
    assert read_everywhere(rules(), HERMES_CALL) == [("content", HERMES_CALL)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
         [("reasoning", "Hm."), ("content", "Hi.")]),
        ("<|channel|>final<|message|>Hi.<|return|>", [("content", "Hi.")]),
        (("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.get<|channel|>commentary json"
         '<|message|>{"a": 1}'), [("reasoning", "Hm."), ("0 get", '{"a": 1}')]),
        (("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get "
         '<|constrain|>json<|message|>{"a": 1}'), [("reasoning", "Hm."), ("0 get", '{"a": 1}')]),
        (("<|channel|>commentary<|message|>First this.<|end|><|start|>assistant to=functions.get<|channel|>commentary"
         '<|message|>{"a": 1}'), [("content", "First this."), ("0 get", '{"a": 1}')]),
        (("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>analysis<|message|>B<|end|>"
         "<|start|>assistant<|channel|>final<|message|>C"), [("reasoning", "AB"), ("content", "C")]),
    ],
)  # fmt: skip
def test_channels(text: str, expected: list[tuple[str, str]]) -> None:
    assert read_everywhere(HARMONY, text) == expected


def test_marks_of_content_are_left_out_only_where_content_begins_and_ends() -> None:
    marked = ReplyRules(THINK, content_open=("<response>",), content_close=("</response>",))
    text = "<think>a</think>\n<response>\nIn <response> and </response> text.</response>\n"
    expected = [("reasoning", "a"), ("content", "In <response> and </response> text.")]
    assert read_everywhere(marked, text) == expected


def test_words_may_open_a_thought() -> None:
    words = ReplyRules(ThoughtFormat("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"), in_thought=True)
    assert read_everywhere(words, "a\n[BEGIN FINAL RESPONSE]\nb") == [("reasoning", "a"), ("content", "b")]


def test_only_what_may_begin_a_marker_is_held_back() -> None:
    reader = ReplyReader(rules(HERMES))
    assert reader.feed("It is 1 < 2") == [TextPart("content", "It is 1 < 2")]
    assert reader.feed(" \n<tool") == []
    assert reader.feed("box>") == [TextPart("content", " \n<toolbox>")]
    assert reader.feed("  ") == []
    assert reader.finish() == [TextPart("content", "  ")]


@pytest.mark.parametrize(
    ("calls", "head", "pieces"),
    [
        (HERMES, '<tool_call>\n{"name": "get", "arguments": ', ['{"ci', 'ty": "', "Bo", 'nn"', "}"]),
        (MISTRAL, "[TOOL_CALLS]get[ARGS]", ['{"ci', 'ty": "', "Bo", 'nn"', "}"]),
    ],
)
def test_arguments_pass_on_as_they_arrive(calls: CallFormat, head: str, pieces: list[str]) -> None:
    reader = ReplyReader(rules(calls))
    assert reader.feed(head) == []
    assert reader.feed(pieces[0]) == [CallPart(0, "get", pieces[0])]
    for piece in pieces[1:]:
        assert reader.feed(piece) == [CallPart(0, None, piece)]


def test_raw_strings_pass_on_as_they_arrive() -> None:
    reader = ReplyReader(rules(CODER))
    assert reader.feed("<tool_call>\n<function=get>\n") == []
    assert reader.feed("<parameter=city>\n") == [CallPart(0, "get", '{"city": "')]
    assert reader.feed('Bad "Ems') == [CallPart(0, None, 'Bad \\"Ems')]
    assert reader.feed("\n") == []  # may belong to the tag
    assert reader.feed("am Rhein") == [CallPart(0, None, "\\nam Rhein")]
    assert reader.feed("\n</parameter") == []
    assert reader.feed(">\n</function>\n</tool_call>") == [CallPart(0, None, '"}')]


@pytest.mark.parametrize("calls", [HERMES, CODER, LLAMA, LFM, GEMMA, MISTRAL, DSML])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 20_000, "{" * 100_000, "<tool_call>" * 5_000, "(" * 100_000])
def test_deep_or_endless_text_is_only_text(calls: CallFormat, text: str) -> None:
    reader = ReplyReader(rules(calls))
    assert joined(reader.feed(text) + reader.finish()) == [("content", text)]


@pytest.mark.parametrize("depth", [10, 100_000])
@pytest.mark.parametrize(
    ("calls", "head"),
    [
        (MISTRAL, '[TOOL_CALLS]get[ARGS]{"free": '),
        (LFM, "<|calls|>[get(free="),
        (HERMES, '<tool_call>{"name": "get", "x": '),
    ],
)
def test_arguments_may_be_nested_deeply(calls: CallFormat, head: str, depth: int) -> None:
    reader = ReplyReader(rules(calls))
    parts = reader.feed(head + "[" * depth + "]" * depth) + reader.finish()
    assert parts


def test_any_name_is_taken_where_no_tool_is_known() -> None:
    parts = ReplyReader(ReplyRules(calls=HERMES)).feed('<tool_call>{"name": "x", "arguments": {}}</tool_call>')
    assert parts == [CallPart(0, "x", "{}")]


def test_schemas_of_any_shape_are_lived_with() -> None:
    odd = Tool(
        "get", {"properties": {"a": {"$ref": "#/x/y"}, "b": 5, "c": {"type": 7}, "d": {"anyOf": [{"$ref": "#"}]}}}
    )
    odd_rules = ReplyRules(calls=CODER, tools=(odd, Tool("put-it", {"properties": []})))
    text = "".join(f"<parameter={key}>\n1\n</parameter>\n" for key in "abcd")
    ((_, arguments),) = read_everywhere(odd_rules, f"<tool_call>\n<function=get>\n{text}</function>\n</tool_call>")
    assert json.loads(arguments) == dict.fromkeys("abcd", 1)


@pytest.mark.parametrize(
    ("reply_rules", "needed"),
    [(ReplyRules(), False), (rules(), True), (rules(HERMES, thought=None), True), (HARMONY, True)],
)
def test_replies_that_are_all_content_need_no_reader(reply_rules: ReplyRules, needed: bool) -> None:
    assert needs_reading(reply_rules) is needed
